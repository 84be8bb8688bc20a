"""A pull as it goes: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from moorage_api.transfer import Progress

if TYPE_CHECKING:
    import rich.progress

_PLAIN = ("waiting", "complete", "already exists", "extracted", "saved")
_DONE = ("complete", "already exists", "extracted")
# The daemon's own names, and containerd's.
_BLOB = re.compile(r"(index|manifest|config|layer)(?: |-sha256:)([0-9a-f]{12})[0-9a-f]*")


class Display(Protocol):
    """Shows a pull's steps."""

    def show(self, step: Progress) -> None: ...


@contextlib.contextmanager
def display(*, quiet: bool) -> Iterator[Display]:
    """What shows a pull on standard error: bars, lines, or nothing."""
    if quiet:
        yield _Silent()
    elif sys.stderr.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


class _Silent:
    def show(self, step: Progress) -> None:
        """Nothing is shown."""


class _Lines:
    """A line where something begins or ends, never one for bytes that go by."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()

    def show(self, step: Progress) -> None:
        if step.event in _PLAIN and (step.name, step.event) not in self._shown:
            self._shown.add((step.name, step.event))
            print(f"{_label(step.name)}: {step.event}", file=sys.stderr, flush=True)


class _Bars:
    """A bar for each blob: its name, how far it is, and what is done with it now."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            TextColumn("{task.fields[event]:<14}"),
            BarColumn(bar_width=32),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def show(self, step: Progress) -> None:
        if _BLOB.fullmatch(step.name) is None:
            return
        if step.name not in self._tasks:
            self._tasks[step.name] = self._bars.add_task(_label(step.name), total=step.total or None, event="")
        total = step.total or None
        completed = step.total if step.event in _DONE else step.progress
        self._bars.update(self._tasks[step.name], event=step.event, completed=completed, total=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def _label(name: str) -> str:
    """`layer-sha256:0123…` as `layer 0123456789ab`; a reference as it is."""
    blob = _BLOB.fullmatch(name)
    return f"{blob[1]} {blob[2]}" if blob else name
