"""One blob from a source into an open ingest: from where it stands, verified, a large one in several parts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp

from moorage_api.content import Writer
from moorage_api.errors import DataLoss, NotFound, Unavailable
from moorage_api.oci import image
from moorage_api.types import Descriptor
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import Host
from mooraged.transfer.parts import Part, Parts, check_range, chunks_of
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads

BATCH = 1 << 20
"""Bytes handed to a writer at once: each is a hop to a thread and a write to the disk."""
LARGE = 64 << 20
"""Bytes of which so many are missing that they are fetched in parts."""
PART = 8 << 20
_PARTIAL = 206
_BEYOND = 416
# How hosts refuse a range that ends before the blob does, where they know only open ones or none.
_NO_RANGES = frozenset({400, 416, 501})

Advance = Callable[[int], None]
"""Told how many bytes of a blob are there."""


class Download:
    """One blob on its way into one open ingest, perhaps from several hosts in turn."""

    def __init__(
        self,
        source: Source,
        threads: Threads,
        writer: Writer,
        descriptor: Descriptor,
        advance: Advance,
        parts: int = 1,
    ) -> None:
        self._source = source
        self._threads = threads
        self._writer = writer
        self._descriptor = descriptor
        self._advance = advance
        self._parts = parts
        self._whole: set[Host] = set()
        self._offset = 0
        self._fetched = 0

    async def run(self) -> None:
        """Fill the ingest until it has the right bytes."""
        self._offset = (await self._threads.run(self._writer.status)).offset
        if self._offset > self._descriptor.size:
            await self._truncate()
        self._advance(self._offset)
        if self._offset == self._descriptor.size and await self._is_right():
            return
        what = f"fetch {self._descriptor.digest} of {self._source.reference.name}"
        try:
            await self._source.ask(what, self._fill, progress=lambda: self._fetched)
        except NotFound:
            if not (image.is_foreign(self._descriptor.media_type) and self._descriptor.urls):
                raise
            self._source = self._source.foreign(self._descriptor.urls)
            await self._source.ask(what, self._fill, progress=lambda: self._fetched)

    async def _fill(self, host: Host) -> None:
        """Get what is missing from `host`, and verify the whole."""
        start = self._offset
        if start < self._descriptor.size:
            await self._get(host, start)
        if not await self._is_right():
            await self._truncate()
            raise HostFailure(
                DataLoss(f"what came is not {self._descriptor.digest}"),
                # The bytes from before may be the wrong ones: this host gets a chance to give all of them.
                transient=start > 0,
            )

    async def _get(self, host: Host, start: int) -> None:
        ranged = self._parts > 1 and self._descriptor.size - start >= LARGE and host not in self._whole
        end = start + PART if ranged else self._descriptor.size
        headers = {"Range": f"bytes={start}-{end - 1 if ranged else ''}"} if start or ranged else {}
        try:
            async with self._source.request(host, "GET", "blobs", self._descriptor.digest, headers) as response:
                served = response.status == _PARTIAL
                await self._copy(chunks_of(response), *self._expected(response, start, end))
        except HostFailure as failure:
            if ranged and failure.status in _NO_RANGES:
                self._whole.add(host)
                failure.transient = True
            elif start and failure.status == _BEYOND:
                await self._truncate()
                failure.transient = True
            raise
        if ranged and served:
            await self._get_parts(host)

    async def _get_parts(self, host: Host) -> None:
        """The rest, in parts of which some are fetched at once; they are written in their order."""
        size = self._descriptor.size

        def begin(start: int) -> Part:
            return Part(self._source, host, self._descriptor, start, min(start + PART, size))

        async with Parts(begin, range(self._offset, size, PART), self._parts) as parts:
            async for part in parts:
                await self._copy(part.chunks(), part.size)

    def _expected(self, response: aiohttp.ClientResponse, start: int, end: int) -> tuple[int, int]:
        """How many bytes of the body are wanted, and how many come before them that are there already: none where the
        host serves ranges, `start` where it does not."""
        size = self._descriptor.size
        if response.status == _PARTIAL:
            check_range(response, start, end, size)
            return end - start, 0
        length = response.content_length
        if length is not None and length != size:
            raise HostFailure(DataLoss(f"it has {length} bytes of {self._descriptor.digest}, not {size}"))
        return size - start, start

    async def _copy(self, chunks: AsyncIterator[bytes], more: int, skip: int = 0) -> None:
        """Write `more` bytes that come after the first `skip` ones. What came before a break is kept."""
        batch: list[bytes] = []
        length = 0
        end = self._offset + more
        try:
            async for chunk in chunks:
                if skip:
                    skip, chunk = max(skip - len(chunk), 0), chunk[skip:]
                batch.append(chunk)
                length += len(chunk)
                if self._offset + length > end:
                    raise HostFailure(DataLoss(f"it gives more than the {more} bytes that were asked for"))
                if length >= BATCH:
                    await self._write(batch)
                    length = 0
        except HostFailure as failure:
            if failure.transient:
                await self._write(batch)
            raise
        await self._write(batch)
        if self._offset < end:
            raise HostFailure(Unavailable(f"the answer ended at byte {self._offset}"), transient=True)

    async def _write(self, batch: list[bytes]) -> None:
        if batch:
            written = await self._threads.run(_write_all, self._writer, batch)
            batch.clear()
            self._offset += written
            self._fetched += written
            self._advance(self._offset)

    async def _is_right(self) -> bool:
        """Whether what is there has the digest. A writer that counts by another algorithm cannot tell: then the commit
        does."""
        digest = await self._threads.run(self._writer.digest)
        same_algorithm = digest.partition(":")[0] == self._descriptor.digest.partition(":")[0]
        return digest == self._descriptor.digest or not same_algorithm

    async def _truncate(self) -> None:
        await self._threads.run(self._writer.truncate, 0)
        self._offset = 0
        self._advance(0)


def _write_all(writer: Writer, pieces: Sequence[bytes]) -> int:
    """Each piece as it came: put together they would be copied, and no longer be in the processor's cache."""
    return sum(writer.write(piece) for piece in pieces)
