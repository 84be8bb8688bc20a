"""An ingest that is filled in several places at once, and counts from its beginning on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from moorage_api.content import Writer, WritesAhead
from mooraged.transfer.threads import Threads

Piece = bytes | memoryview
Advance = Callable[[int], None]
"""Told how many bytes of a blob are there, counted from its beginning."""


class Filling:
    """The writer of an ingest that will have `size` bytes. `offset` bytes are there in their order.

    What comes before its turn is written to its place where the store can do that, so that no crash loses it; else it waits
    in memory.
    """

    def __init__(self, threads: Threads, writer: Writer, size: int, advance: Advance) -> None:
        self._threads = threads
        self._writer = writer
        self._size = size
        self._advance = advance
        # A writer is for one thread at a time.
        self._turn = asyncio.Lock()
        self._held: dict[int, list[Piece]] = {}
        self.offset = 0
        self.fetched = 0
        """Bytes that were put in."""

    async def begin(self) -> None:
        """Find out what is there from before."""
        self.offset = (await self._threads.run(self._writer.status)).offset
        if self.offset > self._size:
            await self.truncate()
        self._advance(self.offset)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is there."""
        return not self.offset and not self._ahead()

    def gaps(self) -> list[tuple[int, int]]:
        """What is missing: start and end of each range, in order."""
        gaps = []
        position = self.offset
        for start, end in [*self._ahead(), (self._size, self._size)]:
            if position < start:
                gaps.append((position, start))
            position = max(position, end)
        return gaps

    async def put(self, offset: int, pieces: Sequence[Piece]) -> None:
        """Write the bytes from `offset` on; what is there in order already is passed over."""
        async with self._turn:
            self.fetched += sum(map(len, pieces))
            if offset <= self.offset:
                await self._append(offset, pieces)
                while self._held and (first := min(self._held)) <= self.offset:
                    await self._append(first, self._held.pop(first))
                self._advance(self.offset)
            elif isinstance(self._writer, WritesAhead) and self._writer.ahead is not None:
                await self._threads.run(_write_ahead, self._writer, pieces, offset)
            else:
                self._held[offset] = list(pieces)

    async def digest(self) -> str:
        """The digest of what is there in order."""
        return await self._threads.run(self._writer.digest)

    async def truncate(self) -> None:
        """Take all of it back."""
        await self._threads.run(self._writer.truncate, 0)
        self._held.clear()
        self.offset = 0
        self._advance(0)

    async def _append(self, offset: int, pieces: Sequence[Piece]) -> None:
        if more := _after(pieces, self.offset - offset):
            self.offset = await self._threads.run(_write, self._writer, more)

    def _ahead(self) -> list[tuple[int, int]]:
        if isinstance(self._writer, WritesAhead) and (ahead := self._writer.ahead) is not None:
            return ahead
        return sorted((offset, offset + sum(map(len, pieces))) for offset, pieces in self._held.items())


def _after(pieces: Sequence[Piece], count: int) -> list[Piece]:
    """What follows the first `count` bytes."""
    rest: list[Piece] = []
    for piece in pieces:
        if len(piece) > count:
            rest.append(memoryview(piece)[count:] if count else piece)
        count = max(count - len(piece), 0)
    return rest


def _write(writer: Writer, pieces: Sequence[Piece]) -> int:
    """Each piece as it came: put together they would be copied, and no longer be in the processor's cache. Returns how many
    bytes are there then."""
    for piece in pieces:
        writer.write(piece)
    return writer.status().offset


def _write_ahead(writer: WritesAhead, pieces: Sequence[Piece], offset: int) -> None:
    for piece in pieces:
        writer.write_ahead(piece, offset)
        offset += len(piece)
