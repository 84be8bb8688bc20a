"""Checkpoints of tasks as blobs: an archive of the folder that criu wrote, and the container's spec beside it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, cast

from google.protobuf.message import DecodeError

from moorage_api.content import BlobReader, ContentStore, Writer
from moorage_api.core import Namespaced
from moorage_api.errors import AlreadyExists, DataLoss, InvalidArgument
from moorage_api.types import Descriptor, TypedValue
from moorage_api.wire.runc_options_pb2 import CheckpointOptions
from mooraged.runtime import convert

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_PREFIX = "moorage-checkpoint-"
_CHUNK = 1 << 20


async def save(space: Namespaced, container_id: str, options: TypedValue | None) -> Sequence[Descriptor]:
    """Checkpoint a task into the content store: the archive, then the spec. With an `image_path` in the options
    (`containerd.runc.v1.CheckpointOptions`) the checkpoint stays in that folder, and there are no descriptors."""
    path = _image_path(options)
    if path:
        await space.tasks.checkpoint(container_id, path, options)
        return []
    container = await asyncio.to_thread(space.containers.get, container_id)
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX)
    try:
        await space.tasks.checkpoint(container_id, folder, options)
        archive = await asyncio.to_thread(_write_archive, space.content, folder)
        spec = convert.any_message(container.spec)
        config = await asyncio.to_thread(_write_blob, space.content, spec.SerializeToString() if spec else b"")
        return [archive, config]
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@asynccontextmanager
async def unpacked(content: ContentStore, checkpoint: Descriptor | None) -> AsyncIterator[str]:
    """A folder with the checkpoint's files, removed after the block if nobody took it over; empty text for none.

    `NotFound`, `InvalidArgument` for another kind of blob, `DataLoss` for an archive that can't be read.
    """
    if checkpoint is None or not checkpoint.digest:
        yield ""
        return
    if checkpoint.media_type != CHECKPOINT:
        raise InvalidArgument(f"{checkpoint.digest} is no checkpoint but {checkpoint.media_type or 'of no type'}")
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX)
    try:
        await asyncio.to_thread(_read_archive, content, checkpoint.digest, folder)
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _image_path(options: TypedValue | None) -> str:
    if options is None or options.type_url.rpartition("/")[2] != CheckpointOptions.DESCRIPTOR.full_name:
        return ""
    try:
        return CheckpointOptions.FromString(options.value).image_path
    except DecodeError as error:
        raise InvalidArgument("checkpoint options can't be read") from error


class _WriterFile:
    """An ingest as the file that tarfile writes to."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return self._writer.write(data)


class _ReaderFile:
    """A blob as the file that tarfile reads from."""

    def __init__(self, blob: BlobReader) -> None:
        self._blob = blob
        self._offset = 0

    def read(self, length: int) -> bytes:
        data = self._blob.pread(min(length, _CHUNK), self._offset) if self._offset < self._blob.size else b""
        self._offset += len(data)
        return data


def _write_archive(content: ContentStore, folder: str) -> Descriptor:
    import tarfile  # slow, and rarely needed

    with content.writer(f"checkpoint-{secrets.token_hex(8)}") as writer:
        target = _WriterFile(writer)
        with tarfile.open(fileobj=cast("IO[bytes]", target), mode="w|") as archive:
            archive.add(folder, arcname=".")
        return _commit(writer, CHECKPOINT, target.size)


def _write_blob(content: ContentStore, data: bytes) -> Descriptor:
    with content.writer(f"checkpoint-{secrets.token_hex(8)}") as writer:
        writer.write(data)
        return _commit(writer, CONFIG, len(data))


def _commit(writer: Writer, media_type: str, size: int) -> Descriptor:
    digest = writer.digest()
    try:
        writer.commit(size, digest)
    except AlreadyExists:
        return Descriptor(media_type, digest, size)  # the same checkpoint was taken before
    return Descriptor(media_type, digest, size)


def _read_archive(content: ContentStore, digest: str, folder: str) -> None:
    import tarfile  # slow, and rarely needed

    with content.open(digest) as blob:
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", _ReaderFile(blob)), mode="r|") as archive:
                for member in archive:
                    _extract(archive, member, folder, digest)
        except tarfile.TarError as error:
            raise DataLoss(f"checkpoint {digest} is no archive that can be read: {error}") from error


def _extract(archive: TarFile, member: TarInfo, folder: str, digest: str) -> None:
    """criu writes plain files, and folders of them; anything else, or a way out of the folder, is no checkpoint."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts or member.name.startswith("/") or not (member.isdir() or member.isreg()):
        raise DataLoss(f"checkpoint {digest} holds {member.name!r}, which no checkpoint has")
    target = os.path.join(folder, *parts)
    if member.isdir():
        os.makedirs(target, mode=0o700, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None
    with source, open(target, "xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
