"""A further reader of a stream: whoever attaches to a process."""

from __future__ import annotations

import os
from collections.abc import Callable

from moorage_shim import log
from moorage_shim.loop import WRITE, Loop, Timer
from moorage_shim.stdio.sinks import open_fifo, write_some

PATIENCE = 10.0
"""Seconds for which a stream waits for a reader that takes nothing; then the reader is dropped."""


class Follower:
    """Writes to a FIFO that has a reader, until that has gone. `on_change` is called when it has caught up, or gone.

    A reader that is slow slows the process down, as a terminal would; one that stands still is dropped, and sees the
    end of the stream, unless this one is `patient`. Where the stream goes by itself is not touched by either.
    """

    def __init__(self, loop: Loop, path: str, on_change: Callable[[], None], *, patient: bool = False) -> None:
        self._loop = loop
        self._path = path
        self._on_change = on_change
        self._patient = patient
        self._pending = b""
        self._ending = False
        self._timer: Timer | None = None
        self._fd = open_fifo(path, os.O_WRONLY)
        self.wake()

    @property
    def gone(self) -> bool:
        """Whether it takes nothing any more."""
        return self._fd < 0

    @property
    def behind(self) -> bool:
        """Whether it has not taken all that it was given."""
        return bool(self._pending)

    def wake(self) -> None:
        """Go on, after a rest. That the reader goes is always told."""
        if self._fd >= 0:
            self._loop.watch(self._fd, WRITE if self._pending else 0, self._on_ready)

    def write(self, data: bytes) -> None:
        """Give it more. What it does not take now is kept."""
        if self._fd >= 0 and data:
            self._pending += data
            self._flush()

    def finish(self) -> None:
        """The stream has ended: so does this, when all is taken."""
        self._ending = True
        if not self._pending:
            self._close()

    def _on_ready(self, events: int) -> None:
        if events & ~WRITE:
            self._drop()
            return
        self._flush()
        if not self._pending:
            self._on_change()

    def _flush(self) -> None:
        try:
            taken = write_some(self._fd, self._pending)
        except BrokenPipeError:
            self._drop()
            return
        self._pending = self._pending[taken:]
        if taken or not self._pending:
            self._stop_waiting()
        if self._pending and self._timer is None and not self._patient:
            self._timer = self._loop.later(PATIENCE, self._give_up)
        if self._ending and not self._pending:
            self._close()
        else:
            self.wake()

    def _give_up(self) -> None:
        log.warning(f"reader of {self._path} has taken nothing for {PATIENCE:g} s and is dropped")
        self._drop()

    def _drop(self) -> None:
        self._pending = b""
        self._close()
        self._on_change()

    def _close(self) -> None:
        self._stop_waiting()
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
