"""Blobs and documents from a source into memory or into ingests: bounded, verified, resumed after any break."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import aiohttp

from moorage_api.content import ContentStore, Info, Writer
from moorage_api.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moorage_api.oci import image
from moorage_api.types import Descriptor, Labels
from mooraged.transfer.arrival import Arrival
from mooraged.transfer.client import read_body
from mooraged.transfer.failures import HostFailure, of_exception
from mooraged.transfer.hosts import Host
from mooraged.transfer.labels import ingest_ref
from mooraged.transfer.resolver import ACCEPT
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads

BATCH = 1 << 20
"""Bytes handed to a writer at once: each is a hop to a thread and a write to the disk."""
LOCK_WAIT = 0.5
LOCK_TRIES = 120
"""Seconds between tries, and how many there are, to open an ingest that another client writes at the moment."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

Advance = Callable[[int], None]
"""Told how many bytes of a blob are there."""


async def fetch_document(source: Source, descriptor: Descriptor) -> bytes:
    """An index or a manifest, verified. `ResourceExhausted` for one too large, `DataLoss` for other bytes than its
    digest says at every host, and the errors of `Source.ask`."""
    if descriptor.size > image.MANIFEST_MAX:
        raise ResourceExhausted(f"{descriptor.digest} has {descriptor.size} bytes: manifests have {image.MANIFEST_MAX}")

    async def at(host: Host) -> bytes:
        async with source.request(host, "GET", "manifests", descriptor.digest, ACCEPT) as response:
            data = await read_body(response, descriptor.size)
        try:
            return image.verify(data, descriptor)
        except DataLoss as error:
            raise HostFailure(error) from None

    return await source.ask(f"fetch {descriptor.digest} of {source.reference.name}", at)


async def store_document(
    threads: Threads, content: ContentStore, descriptor: Descriptor, data: bytes, labels: Labels
) -> None:
    """Make `data`, which is verified, a blob with these labels; one that is there gets the labels."""

    def store(writer: Writer) -> None:
        with writer:
            if writer.status().offset:
                writer.truncate(0)
            writer.write(data)
            writer.commit(descriptor.size, descriptor.digest, labels)

    try:
        await threads.run(store, await _open_writer(threads, content, descriptor))
    except AlreadyExists:
        await threads.run(set_labels, content, descriptor.digest, labels)


def set_labels(content: ContentStore, digest: str, labels: Labels) -> None:
    """Set these labels of a blob and leave its others."""
    if labels:
        info = content.info(digest)
        merged = {**info.labels, **labels}
        if merged != dict(info.labels):
            content.update(Info(digest, info.size, labels=merged), [f"labels.{key}" for key in labels])


async def fetch_blob(
    source: Source,
    threads: Threads,
    content: ContentStore,
    descriptor: Descriptor,
    labels: Labels,
    advance: Advance,
    arrival: Arrival | None = None,
) -> None:
    """Make the blob that `descriptor` names, with these labels, going on from what its ingest has already.

    On failure the ingest stays with its verified or at least plausible bytes, to be resumed; bytes that are known to be
    wrong go. `arrival` is told where the bytes come to, `advance` how many there are. `DataLoss` when no host has the right
    bytes, and the errors of `Source.ask`.
    """
    try:
        writer = await _open_writer(threads, content, descriptor)
    except AlreadyExists:
        await threads.run(set_labels, content, descriptor.digest, labels)
        return
    if arrival is not None:
        arrival.opened(writer)
    try:
        download = Download(source, threads, writer, descriptor, advance)
        await download.run()
        await threads.run(_commit, writer, descriptor, labels)
    except AlreadyExists:
        await threads.run(set_labels, content, descriptor.digest, labels)
    except DataLoss:
        await threads.run(writer.close)
        await threads.run(_discard, content, ingest_ref(descriptor))
        raise
    finally:
        await threads.run(writer.close)


def _commit(writer: Writer, descriptor: Descriptor, labels: Labels) -> None:
    try:
        writer.commit(descriptor.size, descriptor.digest, labels)
    except FailedPrecondition as error:
        raise DataLoss(str(error)) from error


async def _open_writer(threads: Threads, content: ContentStore, descriptor: Descriptor) -> Writer:
    def open_writer() -> Writer:
        return content.writer(ingest_ref(descriptor), descriptor.size, descriptor.digest)

    for _ in range(LOCK_TRIES):
        try:
            return await threads.obtain(open_writer, lambda writer: writer.close())
        except Unavailable:
            await asyncio.sleep(LOCK_WAIT)
    return await threads.obtain(open_writer, lambda writer: writer.close())


def _discard(content: ContentStore, ref: str) -> None:
    try:
        content.abort(ref)
    except NotFound:
        return


class Download:
    """One blob on its way into one open ingest, perhaps from several hosts in turn."""

    def __init__(
        self, source: Source, threads: Threads, writer: Writer, descriptor: Descriptor, advance: Advance
    ) -> None:
        self._source = source
        self._threads = threads
        self._writer = writer
        self._descriptor = descriptor
        self._advance = advance
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
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            async with self._source.request(host, "GET", "blobs", self._descriptor.digest, headers) as response:
                await self._copy(response, self._skip(response, start))
        except HostFailure as failure:
            if start and failure.status == 416:
                await self._truncate()
                failure.transient = True
            raise

    def _skip(self, response: aiohttp.ClientResponse, start: int) -> int:
        """How many bytes of the body are there already: none where the host serves ranges, `start` where it does not."""
        size = self._descriptor.size
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start or match[3] not in (str(size), "*"):
                raise HostFailure(DataLoss(f"asked for bytes from {start} of {size}, it gives others"))
            return 0
        length = response.content_length
        if length is not None and length != size:
            raise HostFailure(DataLoss(f"it has {length} bytes of {self._descriptor.digest}, not {size}"))
        return start

    async def _copy(self, response: aiohttp.ClientResponse, skip: int) -> None:
        """Write the body, but for its first `skip` bytes. What came before a break is kept."""
        batch: list[bytes] = []
        length, more = 0, self._descriptor.size - self._offset
        try:
            async for chunk in response.content.iter_any():
                if skip:
                    skip, chunk = max(skip - len(chunk), 0), chunk[skip:]
                batch.append(chunk)
                length += len(chunk)
                if length > more:
                    raise HostFailure(DataLoss(f"it gives more than the {self._descriptor.size} bytes of the blob"))
                if length >= BATCH:
                    await self._write(batch)
                    length, more = 0, more - length
        except (aiohttp.ClientError, OSError) as error:
            await self._write(batch)
            raise of_exception(error) from error
        await self._write(batch)
        if self._offset < self._descriptor.size:
            raise HostFailure(Unavailable(f"the answer ended at byte {self._offset}"), transient=True)

    async def _write(self, batch: list[bytes]) -> None:
        data = b"".join(batch)
        batch.clear()
        if data:
            await self._threads.run(self._writer.write, data)
            self._offset += len(data)
            self._fetched += len(data)
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


def check_size(descriptor: Descriptor, most: int, what: str) -> None:
    """`ResourceExhausted` for a descriptor larger than what is read into memory; `InvalidArgument` for an empty one."""
    if descriptor.size > most:
        raise ResourceExhausted(f"the {what} {descriptor.digest} has {descriptor.size} bytes: at most {most} are read")
    if descriptor.size == 0:
        raise InvalidArgument(f"the {what} {descriptor.digest} is empty")
