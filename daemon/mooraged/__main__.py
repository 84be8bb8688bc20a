"""`python -m mooraged`, and the entry point of the command `mooraged`."""

from __future__ import annotations

import os

# gRPC's fork handlers stop its threads around every fork of ours; the daemon never uses gRPC in a forked child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """Run the command."""
    from mooraged.cli import main as command

    command()


if __name__ == "__main__":
    main()
