"""Moves bytes from a descriptor to a sink, driven by the loop."""

from __future__ import annotations

import os
from collections.abc import Callable

from moorage_shim.loop import READ, WRITE, Future, Loop, read_some
from moorage_shim.stdio.sinks import Sink, unread

# What a pipe holds; more is never there at once.
_CHUNK = 64 << 10


class Pump:
    """One stream. A slow sink stops the reading, so that the writer waits; a broken one ends the stream.

    Owns the source, and the sink with it. `moved` counts bytes.
    """

    def __init__(self, loop: Loop, source: int, sink: Sink, *, at_end: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._pending = b""
        self._at_end = at_end
        self._marks: list[tuple[int, Future[None]]] = []
        self.ended: Future[None] = Future(loop)
        self.moved = 0
        os.set_blocking(source, False)
        self.wake()

    def wake(self) -> None:
        """Go on moving, after a rest."""
        if self.ended.done:
            return
        if self._pending:
            self._loop.watch(self._sink.fd, WRITE, self._on_writable)
        else:
            self._loop.watch(self._source, READ, self._on_readable)

    def caught_up(self) -> Future[None]:
        """Done when all that is in the source at this moment has been written, or the stream has ended."""
        future: Future[None] = Future(self._loop)
        target = self.moved + len(self._pending) + unread(self._source) if not self.ended.done else 0
        if self.ended.done or target <= self.moved:
            future.set(None)
        else:
            self._marks.append((target, future))
        return future

    def close(self) -> None:
        """Stop at once; what has not been moved is lost."""
        if not self.ended.done:
            self._stop()
        self._sink.close()

    def _on_readable(self, _: int) -> None:
        data = read_some(self._source, _CHUNK)
        if data:
            self._push(data)
        elif data is not None:
            self._finish()

    def _on_writable(self, _: int) -> None:
        self._loop.unwatch(self._sink.fd)
        self._loop.watch(self._source, READ, self._on_readable)
        data, self._pending = self._pending, b""
        self._push(data)

    def _push(self, data: bytes) -> None:
        try:
            taken = self._sink.write(data)
        except BrokenPipeError:
            self._finish()
            return
        self.moved += taken
        if taken < len(data):
            self._pending = data[taken:]
            self._loop.unwatch(self._source)
            self._loop.watch(self._sink.fd, WRITE, self._on_writable)
        if self._marks:
            self._pass_marks()

    def _pass_marks(self) -> None:
        for target, future in self._marks:
            if target <= self.moved:
                future.set(None)
        self._marks = [mark for mark in self._marks if mark[0] > self.moved]

    def _finish(self) -> None:
        self._stop()
        self._sink.finish()
        if self._at_end is not None:
            self._at_end()

    def _stop(self) -> None:
        if self._pending:
            self._loop.unwatch(self._sink.fd)
            self._pending = b""
        self._loop.unwatch(self._source)
        os.close(self._source)
        self._source = -1
        for _, future in self._marks:
            future.set(None)
        self._marks.clear()
        self.ended.set(None)
