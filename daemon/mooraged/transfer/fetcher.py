"""Blobs and documents from a source into memory or into ingests: bounded, verified, resumed after any break."""

from __future__ import annotations

import asyncio

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
from mooraged.transfer.download import Download
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.filling import Advance
from mooraged.transfer.hosts import Host
from mooraged.transfer.labels import ingest_ref
from mooraged.transfer.resolver import ACCEPT
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads

LOCK_WAIT = 0.5
LOCK_TRIES = 120
"""Seconds between tries, and how many there are, to open an ingest that another client writes at the moment."""


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
    parts: int = 1,
) -> None:
    """Make the blob that `descriptor` names, with these labels, going on from what its ingest has already.

    On failure the ingest stays with its verified or at least plausible bytes, to be resumed; bytes that are known to be
    wrong go. `arrival` is told where the bytes come to, `advance` how many there are; of a large blob so many `parts` are
    fetched at once. `DataLoss` when no host has the right
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
        download = Download(source, threads, writer, descriptor, advance, parts)
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


def check_size(descriptor: Descriptor, most: int, what: str) -> None:
    """`ResourceExhausted` for a descriptor larger than what is read into memory; `InvalidArgument` for an empty one."""
    if descriptor.size > most:
        raise ResourceExhausted(f"the {what} {descriptor.digest} has {descriptor.size} bytes: at most {most} are read")
    if descriptor.size == 0:
        raise InvalidArgument(f"the {what} {descriptor.digest} is empty")
