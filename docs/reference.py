"""Write the reference pages from the program itself: docs/configuration.md and docs/commands.md.

`pages` is what the tests compare with what is committed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent

CONFIGURATION = """# Configuration

`mooraged` reads `/etc/moorage/config.toml`, or the file that `--config` names; every key has a default, so there need not be
one. Flags (`--root`, `--state`, `--address`, `--log-level`) override the file. Durations are in seconds, sizes in bytes.

- `mooraged config default` prints what follows here;
- `mooraged --config FILE config check` says what is wrong in a file: line, key, and what was expected;
- `mooraged --config FILE config dump` prints what the daemon would run with.

```toml
"""

COMMANDS = """# Commands

What `moorage --help` and `moorage COMMAND --help` say, on one page.
"""


def configuration() -> str:
    """The page of all configuration keys."""
    default = subprocess.run([BIN / "mooraged", "config", "default"], check=True, capture_output=True, text=True)
    return f"{CONFIGURATION}{default.stdout}```\n"


def _commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    if not command.hidden:
        yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _commands(found, context, child)


def commands() -> str:
    """The page of all commands of `moorage`."""
    from moorage.cli.app import cli

    return COMMANDS + "".join(_commands(cli, None, "moorage"))


def pages() -> dict[Path, str]:
    """Each generated page and its text."""
    return {DOCS / "configuration.md": configuration(), DOCS / "commands.md": commands()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(DOCS.parent))
