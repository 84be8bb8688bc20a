"""Moves bytes from a descriptor to a sink, driven by the loop."""

from __future__ import annotations

import os
from collections.abc import Callable

from moorage_shim.loop import READ, WRITE, Future, Loop, read_some
from moorage_shim.stdio.follower import Follower
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
        self._followers: list[Follower] = []
        self.ended: Future[None] = Future(loop)
        self.moved = 0
        os.set_blocking(source, False)
        self.wake()

    def wake(self) -> None:
        """Go on moving, after a rest."""
        for follower in self._followers:
            follower.wake()
        if self.ended.done:
            return
        if self._pending:
            self._loop.watch(self._sink.fd, WRITE, self._on_writable)
        else:
            self._watch_source()

    def follow(self, path: str, *, patient: bool = False) -> None:
        """Copy what is moved from now on to a FIFO, too, which has a reader."""
        follower = Follower(self._loop, path, self._on_follower, patient=patient)
        if self.ended.done:
            follower.finish()
        else:
            self._followers.append(follower)

    def caught_up(self) -> Future[None]:
        """Done when all that is in the source at this moment has been written, or the stream has ended."""
        future: Future[None] = Future(self._loop)
        target = self.moved + len(self._pending) + unread(self._source) if not self.ended.done else 0
        if self.ended.done or target <= self.moved:
            future.set(None)
        else:
            self._marks.append((target, future))
        return future

    @property
    def unclaimed(self) -> bool:
        """Whether nobody has come for what is left of the stream."""
        return self._sink.unclaimed

    def close(self) -> None:
        """Stop at once; what has not been moved is lost."""
        if not self.ended.done:
            self._stop()
        self._sink.close()
        self._finish_followers()

    def _on_readable(self, _: int) -> None:
        data = read_some(self._source, _CHUNK)
        if data:
            self._push(data)
        elif data is not None:
            self._finish()

    def _on_writable(self, _: int) -> None:
        self._loop.unwatch(self._sink.fd)
        data, self._pending = self._pending, b""
        self._watch_source()
        self._push(data)

    def _on_follower(self) -> None:
        self._followers = [each for each in self._followers if not each.gone]
        if not self.ended.done and not self._pending:
            self._watch_source()

    def _watch_source(self) -> None:
        """Read on, unless somebody has not taken what was read before."""
        if any(each.behind for each in self._followers):
            self._loop.unwatch(self._source)
        else:
            self._loop.watch(self._source, READ, self._on_readable)

    def _push(self, data: bytes) -> None:
        try:
            taken = self._sink.write(data)
        except BrokenPipeError:
            self._finish()
            return
        self.moved += taken
        if self._followers:
            self._copy(data[:taken])
        if taken < len(data):
            self._pending = data[taken:]
            self._loop.unwatch(self._source)
            self._loop.watch(self._sink.fd, WRITE, self._on_writable)
        if self._marks:
            self._pass_marks()

    def _copy(self, data: bytes) -> None:
        for follower in self._followers:
            follower.write(data)
        self._watch_source()

    def _pass_marks(self) -> None:
        for target, future in self._marks:
            if target <= self.moved:
                future.set(None)
        self._marks = [mark for mark in self._marks if mark[0] > self.moved]

    def _finish(self) -> None:
        self._stop()
        self._sink.finish()
        self._finish_followers()
        if self._at_end is not None:
            self._at_end()

    def _finish_followers(self) -> None:
        for follower in self._followers:
            follower.finish()
        self._followers = []

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
