"""Run the benchmarks named on the command line, or all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from suite import cri, native, pods, pull, snapshotters
from suite.report import Report

BENCHMARKS: dict[str, Callable[[], Report]] = {
    "pods": pods.run,
    "cri": cri.run,
    "native": native.run,
    "pull": pull.run,
    "snapshotters": snapshotters.run,
}


def main(names: list[str]) -> int:
    """Run, print and save each; returns the exit status."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        report = BENCHMARKS[name]()
        report.save(name)
        print(report.table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
