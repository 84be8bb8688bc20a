"""A process of a container at the other end of a program: what it writes comes as it comes, what it reads is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from moorage.process import ProcessHandle, Streams
from moorage.stdio import Fifos, Sink
from moorage_api.errors import FailedPrecondition
from moorage_api.runtime import Exit

_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some bytes that a process wrote, to `stdout` or `stderr`; with a terminal all is `stdout`."""

    stream: str
    data: bytes


class Attachment:
    """The streams of one process; an async context manager. Leaving it leaves the process running.

    Iterating gives what it writes until it has ended. A program that does not read makes it wait, as a terminal would.
    """

    def __init__(
        self, process: ProcessHandle, fifos: Fifos, begin: Callable[[], Awaitable[None]], *, closes_input: bool = True
    ) -> None:
        self.process = process
        self._fifos = fifos
        self._begin = begin
        self._closes_input = closes_input
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue(_CHUNKS)
        self._input: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS)
        self._talking: asyncio.Task[Exit] | None = None

    async def write(self, data: bytes) -> None:
        """Give it something to read. `FailedPrecondition` where it has no input."""
        if not self._fifos.has_input:
            raise FailedPrecondition("the process has no input: it was made without one, or it has been ended")
        if data:
            await self._input.put(data)

    async def end_input(self) -> None:
        """Let it see the end of its input, after what was written; no error where it has none."""
        if self._fifos.has_input:
            await self._input.put(b"")

    async def resize(self, width: int, height: int) -> None:
        """Tell its terminal the size in characters."""
        await self.process.resize(width, height)

    async def wait(self) -> Exit:
        """Return when it has ended. What it has written and nobody has read by then is thrown away."""
        async for _ in self:
            continue
        return await self._talk()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        talking = self._talk()
        while not (talking.done() and self._chunks.empty()):
            if not self._chunks.empty():
                yield self._chunks.get_nowait()
                continue
            getting = asyncio.ensure_future(self._chunks.get())
            try:
                await asyncio.wait([getting, talking], return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
            finally:
                getting.cancel()
        # What went wrong is raised here.
        talking.result()

    def _talk(self) -> asyncio.Task[Exit]:
        if self._talking is None:
            raise FailedPrecondition("an attachment is used within `async with`")
        return self._talking

    def _sink(self, stream: str) -> Sink:
        async def sink(data: bytes) -> None:
            await self._chunks.put(Chunk(stream, data))

        return sink

    async def __aenter__(self) -> Self:
        begun = asyncio.Event()

        async def begin() -> None:
            await self._begin()
            begun.set()

        source = self._input.get if self._fifos.has_input else None
        streams = Streams(self._sink("stdout"), self._sink("stderr"), source, self._closes_input)
        self._talking = asyncio.create_task(self.process.join(self._fifos, streams, begin), name="moorage attachment")
        beginning = asyncio.create_task(begun.wait(), name="moorage beginning")
        await asyncio.wait([self._talking, beginning], return_when=asyncio.FIRST_COMPLETED)
        if not begun.is_set():
            beginning.cancel()
            self._talking.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        talking = self._talk()
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
