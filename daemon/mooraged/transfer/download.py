"""One blob from a source into an open ingest: what is missing of it, verified, a large one in several parts at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from moorage_api.content import Writer
from moorage_api.errors import DataLoss, NotFound, Unavailable
from moorage_api.oci import image
from moorage_api.types import Descriptor
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.filling import Advance, Filling
from mooraged.transfer.hosts import Host
from mooraged.transfer.parts import check_range, chunks_of, parts_of, side_by_side
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads

BATCH = 1 << 20
"""Bytes handed to a writer at once, and what a kill costs: each is a hop to a thread and a write to the disk."""
LARGE = 64 << 20
"""Bytes of which so many are missing that they are fetched in parts."""
PART = 8 << 20
_PARTIAL = 206
_BEYOND = 416
# How hosts refuse a range that ends before the blob does, where they know only open ones or none.
_NO_RANGES = frozenset({400, 416, 501})


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
        self._descriptor = descriptor
        self._parts = parts
        self._filling = Filling(threads, writer, descriptor.size, advance)
        self._whole: set[Host] = set()

    async def run(self) -> None:
        """Fill the ingest until it has the right bytes."""
        filling = self._filling
        await filling.begin()
        if not filling.gaps() and await self._is_right():
            return
        what = f"fetch {self._descriptor.digest} of {self._source.reference.name}"
        try:
            await self._source.ask(what, self._fill, progress=lambda: filling.fetched)
        except NotFound:
            if not (image.is_foreign(self._descriptor.media_type) and self._descriptor.urls):
                raise
            self._source = self._source.foreign(self._descriptor.urls)
            await self._source.ask(what, self._fill, progress=lambda: filling.fetched)

    async def _fill(self, host: Host) -> None:
        """Get what is missing from `host`, and verify the whole."""
        resumed = not self._filling.is_empty
        gaps = self._filling.gaps()
        if gaps:
            await self._get(host, gaps)
        if not await self._is_right():
            await self._filling.truncate()
            raise HostFailure(
                DataLoss(f"what came is not {self._descriptor.digest}"),
                # The bytes from before may be the wrong ones: this host gets a chance to give all of them.
                transient=resumed,
            )

    async def _get(self, host: Host, gaps: list[tuple[int, int]]) -> None:
        """Fill the gaps: in parts, where the first of them shows that the host gives them, or from the first on."""
        start, size = gaps[0][0], self._descriptor.size
        missing = sum(end - start for start, end in gaps)
        resumes = gaps != [(start, size)]
        ranged = host not in self._whole and (resumes or (missing >= LARGE and self._parts > 1))
        end = next(parts_of(gaps, PART))[1] if ranged else size
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
                await self._filling.truncate()
                failure.transient = True
            raise
        if ranged and served:
            await self._get_parts(host)

    async def _get_parts(self, host: Host) -> None:
        """The rest, in parts of which some are fetched at once. None begins far ahead of what is there: what follows the
        bytes wants them in their order, and a store may have to keep the others in memory."""

        async def fetch(start: int, end: int) -> None:
            headers = {"Range": f"bytes={start}-{end - 1}"}
            async with self._source.request(host, "GET", "blobs", self._descriptor.digest, headers) as response:
                if response.status != _PARTIAL:
                    raise HostFailure(DataLoss("it gives parts, and then no more"), transient=True)
                check_range(response, start, end, self._descriptor.size)
                await self._copy(chunks_of(response), start, end)

        filling, ahead = self._filling, self._parts * PART
        parts = parts_of(filling.gaps(), PART)
        await side_by_side(fetch, parts, self._parts, lambda start: start < filling.offset + ahead)

    def _expected(self, response: aiohttp.ClientResponse, start: int, end: int) -> tuple[int, int, int]:
        """Where the bytes of the body that are wanted begin and end, and how many come before them that are there already:
        none where the host serves ranges, `start` where it does not."""
        size = self._descriptor.size
        if response.status == _PARTIAL:
            check_range(response, start, end, size)
            return start, end, 0
        length = response.content_length
        if length is not None and length != size:
            raise HostFailure(DataLoss(f"it has {length} bytes of {self._descriptor.digest}, not {size}"))
        return start, size, start

    async def _copy(self, chunks: AsyncIterator[bytes], start: int, end: int, skip: int = 0) -> None:
        """Put the bytes that come after the first `skip` ones to their place from `start` to before `end`. What came before
        a break is kept."""
        batch: list[bytes | memoryview] = []
        length = 0
        try:
            async for chunk in chunks:
                if skip:
                    skip, chunk = max(skip - len(chunk), 0), chunk[skip:]
                batch.append(chunk)
                length += len(chunk)
                if start + length > end:
                    raise HostFailure(DataLoss(f"it gives more than the {end - start} bytes that were missing"))
                if length > (more := (start + length) % BATCH):
                    # Up to the boundary of a batch: a store knows only whole ones after a crash.
                    rest = _cut(batch, more)
                    await self._filling.put(start, batch)
                    start += length - more
                    batch, length = rest, more
        except HostFailure as failure:
            if failure.transient:
                await self._filling.put(start, batch)
            raise
        await self._filling.put(start, batch)
        if start + length < end:
            raise HostFailure(Unavailable(f"the answer ended at byte {start + length}"), transient=True)

    async def _is_right(self) -> bool:
        """Whether what is there has the digest. A writer that counts by another algorithm cannot tell: then the commit
        does."""
        digest = await self._filling.digest()
        same_algorithm = digest.partition(":")[0] == self._descriptor.digest.partition(":")[0]
        return digest == self._descriptor.digest or not same_algorithm


def _cut(batch: list[bytes | memoryview], more: int) -> list[bytes | memoryview]:
    """Take the last `more` bytes, which are of the last piece, off a batch."""
    if not more:
        return []
    last = memoryview(batch[-1])
    batch[-1] = last[:-more]
    return [last[-more:]]
