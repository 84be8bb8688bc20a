"""Write the reference pages from the program itself: docs/configuration.md, commands.md, contracts.md, conformance.md.

`pages` is what the tests compare with what is committed.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
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


CONTRACTS = """# Contracts

What a plugin keeps and what it may use, from the docstrings of `moorage_api`. [Writing a plugin](plugins.md) is where to begin;
what may change of this, and how, is said in [stability.md](stability.md).
"""
_CONTRACT_MODULES = (
    "moorage_api.snapshots",
    "moorage_api.folder_snapshotter",
    "moorage_api.snapshot_tree",
    "moorage_api.content",
    "moorage_api.ingests",
    "moorage_api.differ",
    "moorage_api.mounts",
    "moorage_api.plugin",
    "moorage_api.errors",
)

CONFORMANCE = """# Conformance

Each contract has a suite of tests, one a rule, in `moorage_api.testing`. An author derives a class and says how to open the
plugin; pytest does the rest. The suites come with a pytest plugin, which is installed with Moorage: the report of a rule that
is broken names the rule and the contract, and draws the tree of snapshots.

They are run here on every built-in backend, on the daemon's view of each, and on each through gRPC.

The crash rule forks a child that opens the snapshotter and makes one call, and kills it with SIGKILL at its first system call
that changes something, then in another child at its second, and so on until the call gets through (ptrace; it is skipped where
that is not permitted). After each kill the snapshotter is opened again: all must be as before the call or as after it, nothing may
be left on disk that belongs to neither, and the call must be possible again.
"""
NATIVE_API = """# The native API

The daemon speaks containerd's API on its socket, so that its clients, shims and proxy plugins work unchanged. This page names,
for every method, a client that calls it and a test in which it does, from what the daemons logged while the tests ran: a run of
the tests fails when a test that is named here passes without its method having been called.

What shims offer to the daemon (`containerd.task.v2` and `v3`, `containerd.runtime.sandbox.v1`) is shown by the tests of shims
both ways: another's shim below Moorage, and Moorage's below another containerd (`tests/daemon/test_shims.py`).

`MOORAGE_RECORD_API=1 ./dev test` writes the table behind this page anew, `./dev docs` the page.
"""
MUTATIONS = """Backends with one thing wrong, each of which the suite must notice; every rule has at least one. The tests
check both.
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


def contracts() -> str:
    """The page of what plugins keep and use, from the docstrings."""
    return CONTRACTS + "".join(_module(name) for name in _CONTRACT_MODULES)


def _module(name: str) -> str:
    module = importlib.import_module(name)
    parts = [f"\n## {name}\n\n{inspect.cleandoc(module.__doc__ or '')}\n"]
    for member, value in vars(module).items():
        own = getattr(value, "__module__", "") == name and not member.startswith("_")
        if inspect.isclass(value) and own:
            parts.append(f"\n### class {member}\n\n{_text(value)}\n")
            parts.extend(_methods(value))
        elif inspect.isfunction(value) and own:
            parts.append(f"\n### {member}\n\n```python\n{member}{inspect.signature(value)}\n```\n\n{_text(value)}\n")
    return "".join(parts)


def _methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        if inspect.isfunction(value) and not name.startswith("_") and value.__doc__:
            yield f"\n```python\n{name}{inspect.signature(value)}\n```\n\n{_text(value)}\n"


def _text(value: object) -> str:
    """A docstring; that of a dataclass without one is its signature, which says little."""
    return inspect.cleandoc(getattr(value, "__doc__", None) or "")


def conformance() -> str:
    """The page of the suites: their rules, and what is broken on purpose to try them."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from support import broken_content, broken_differs, broken_snapshotters
    from support.mutations import table

    broken = (broken_snapshotters.broken(), broken_content.broken(), broken_differs.broken())
    rules = "".join(_rules(title, suite) for title, suite in _suites())
    tables = "".join(
        f"\n### {title}\n\n{table(mutants)}" for (title, _), mutants in zip(_suites(), broken, strict=True)
    )
    return f"{CONFORMANCE}{rules}\n## Broken on purpose\n\n{MUTATIONS}{tables}"


def _suites() -> list[tuple[str, type]]:
    from moorage_api.testing.content import ContentStoreSuite
    from moorage_api.testing.differ import DifferSuite
    from moorage_api.testing.snapshots import SnapshotterSuite

    return [("Snapshotters", SnapshotterSuite), ("Content stores", ContentStoreSuite), ("Differs", DifferSuite)]


def _rules(title: str, suite: type) -> str:
    names = [name for base in suite.__mro__ for name in vars(base) if name.startswith("test_")]
    lines = [f"- {name.removeprefix('test_').replace('_', ' ')}" for name in dict.fromkeys(names)]
    return f"\n## {title}: {len(lines)} rules\n\n" + "\n".join(lines) + "\n"


def native_api() -> str:
    """The page of the native API: for every method of the tables, the test that shows it and the client in it."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from support.apicalls import methods, rows

    shown = {row.method: row for row in rows()}
    parts = [NATIVE_API]
    for service, members in groupby(methods(), key=lambda method: method.partition("/")[0]):
        parts.append(f"\n## {service}\n\n| method | client | test |\n|---|---|---|\n")
        for method in members:
            row = shown[method]
            ends = f", which gets {row.code}" if row.code else ""
            parts.append(f"| {method.partition('/')[2]} | {row.client}{ends} | `{row.test}` |\n")
    return "".join(parts)


def pages() -> dict[Path, str]:
    """Each generated page and its text."""
    return {
        DOCS / "configuration.md": configuration(),
        DOCS / "commands.md": commands(),
        DOCS / "contracts.md": contracts(),
        DOCS / "conformance.md": conformance(),
        DOCS / "native-api.md": native_api(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(DOCS.parent))
