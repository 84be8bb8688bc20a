"""The same streams for programs without an event loop: one runs in a thread of its own while a client is open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from moorage.cri.streaming.link import Piece
from moorage.cri.streaming.ports import AsyncPort
from moorage.cri.streaming.process import AsyncProcess, Output

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread, started with the first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and wait for it."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="moorage.cri", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @contextmanager
    def enter(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context, as one that is not."""
        entered = self.run(context.__aenter__())
        try:
            yield entered
        finally:
            self.run(context.__aexit__(None, None, None))

    def close(self) -> None:
        """End the thread; a later call starts another."""
        with self._lock:
            if self._loop is not None and self._thread is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._loop = self._thread = None


class Process:
    """As `AsyncProcess`. Writing and reading may be done from two threads."""

    def __init__(self, loop: LoopThread, process: AsyncProcess) -> None:
        self._loop, self._process = loop, process

    def write(self, data: bytes) -> None:
        """Send to its standard input; returns when more is taken. `Unavailable` when it is gone."""
        self._loop.run(self._process.write(data))

    def close_stdin(self) -> None:
        """Say that its input ends. `Unimplemented` over a WebSocket with a server that only speaks version 4."""
        self._loop.run(self._process.close_stdin())

    def resize(self, width: int, height: int) -> None:
        """Tell the size of its terminal, in columns and rows."""
        self._loop.run(self._process.resize(width, height))

    def read(self) -> Piece | None:
        """The next bytes of its output, of whichever stream; None when it has ended."""
        return self._loop.run(self._process.read())

    def output(self) -> Iterator[Piece]:
        """Its output as it comes, to the end."""
        while (piece := self.read()) is not None:
            yield piece

    def wait(self) -> int:
        """Wait for its end, dropping what it writes; returns its exit code."""
        return self._loop.run(self._process.wait())

    def communicate(self, data: bytes | None = None) -> Output:
        """Send `data` as its whole input (None: leave that alone), read all its output, and wait for its end."""
        return self._loop.run(self._process.communicate(data))


class Port:
    """As `AsyncPort`."""

    def __init__(self, loop: LoopThread, port: AsyncPort) -> None:
        self._loop, self._port = loop, port

    def write(self, data: bytes) -> None:
        """Send; returns when more is taken. `Unavailable` when the other side is gone."""
        self._loop.run(self._port.write(data))

    def close_writing(self) -> None:
        """Say that nothing more will be sent; what comes can still be read. `Unimplemented` over a WebSocket."""
        self._loop.run(self._port.close_writing())

    def read(self) -> bytes:
        """What comes next; empty at the end. `Unavailable` with the reason where the port cannot be reached."""
        return self._loop.run(self._port.read())
