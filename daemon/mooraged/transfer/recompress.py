"""Layers in another compression: the same tar, so the same diff ID, under another digest."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Iterator
from typing import BinaryIO, cast

from moorage_api.content import BlobReader, ContentStore
from moorage_api.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from moorage_api.types import Descriptor
from mooraged.differ.compression import compressor, decompressed
from mooraged.differ.limits import Limits
from mooraged.differ.media import Compression
from mooraged.differ.tar.events import TarError
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.labels import UNCOMPRESSED

GZIP: Compression = "gzip"
_READ = 1 << 20
_WRITE = 1 << 18
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def detect(content: ContentStore, blob: Descriptor) -> Compression:
    """How a blob is compressed, as its first bytes tell."""
    with content.open(blob.digest) as reader:
        head = reader.pread(4, 0) if reader.size else b""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def uncompressed_digest(content: ContentStore, layer: Descriptor) -> str:
    """The diff ID of a layer; known from its label, or else read. `InvalidArgument` for damaged data, `NotFound`."""
    known = content.info(layer.digest).labels.get(UNCOMPRESSED, "")
    if known:
        return known
    digest = hashlib.sha256()
    for chunk in _tar_of(content, layer):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def recompress(
    content: ContentStore, layer: Descriptor, media_type: str, kind: Compression, diff_id: str = ""
) -> tuple[Descriptor, str]:
    """Store a layer's tar compressed as `kind`; returns the new layer and its diff ID, which is also its label.

    `InvalidArgument` for damaged data, `DataLoss` where the tar is not `diff_id`; then nothing is stored.
    """
    ref = f"convert-{layer.digest}-{secrets.token_hex(4)}"
    digest = hashlib.sha256()
    packer = compressor(kind)
    pending = bytearray()
    try:
        with content.writer(ref) as writer:
            for chunk in _tar_of(content, layer):
                digest.update(chunk)
                pending += packer.compress(chunk)
                if len(pending) >= _WRITE:
                    writer.write(bytes(pending))
                    pending.clear()
            pending += packer.flush()
            writer.write(bytes(pending))
            found = f"sha256:{digest.hexdigest()}"
            if diff_id and found != diff_id:
                raise DataLoss(
                    f"layer {layer.digest} decompresses to {found}, its image's configuration says {diff_id}"
                )
            made = Descriptor(media_type, writer.digest(), writer.status().offset)
            try:
                writer.commit(made.size, made.digest, {UNCOMPRESSED: found})
            except AlreadyExists:
                set_labels(content, made.digest, {UNCOMPRESSED: found})
    except BaseException:
        _abort(content, ref)
        raise
    return made, found


def _abort(content: ContentStore, ref: str) -> None:
    try:
        content.abort(ref)
    except NotFound:
        return  # it never began, or is committed


def _tar_of(content: ContentStore, layer: Descriptor) -> Iterator[bytes]:
    with content.open(layer.digest) as reader, io.BufferedReader(_BlobFile(reader), _READ) as file:
        ceiling, size = Limits().ceiling(layer.size), 0
        try:
            for chunk in decompressed(cast(BinaryIO, file)):
                size += len(chunk)
                if size > ceiling:
                    raise ResourceExhausted(f"layer {layer.digest}: more than {ceiling} bytes uncompressed")
                yield chunk
        except TarError as error:
            raise InvalidArgument(f"layer {layer.digest}: {error}") from error


class _BlobFile(io.RawIOBase):
    """A blob as a file that can be read and sought."""

    def __init__(self, reader: BlobReader) -> None:
        self._reader = reader
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._reader.size}[whence]
        self._offset = base + offset
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._offset >= self._reader.size:
            return 0
        data = self._reader.pread(len(buffer), self._offset)
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
