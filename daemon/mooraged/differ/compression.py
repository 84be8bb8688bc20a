"""Compressed streams of layers, both ways. The work is done in C, without the GIL."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard
from isal import igzip, igzip_lib, isal_zlib

from mooraged.differ.media import Compression
from mooraged.differ.tar.events import TarError

CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Skippable frames, with which some tools begin a zstd file: 16 magic numbers that differ in the first byte.
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
# The stubs of isal have an instance where its exception class is.
_DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zstandard.ZstdError, igzip_lib.IsalError)  # type: ignore[assignment]
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3


class Readable(Protocol):
    """What is asked of a compressed file. A read may give less than is wanted, and nothing only at the end."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Compressor(Protocol):
    """What zlib's and zstandard's compressors have in common."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def decompressed(file: Readable) -> Iterator[bytes]:
    """The bytes of a layer, decompressed if they begin as gzip or zstd do, in chunks of at most `CHUNK`.

    Several gzip members or zstd frames in a row are one stream. `TarError` for compressed data that is damaged.
    """
    head = _head(file)
    reader: Readable
    if head.startswith(_GZIP_MAGIC):
        reader = igzip.open(file)  # type: ignore[no-untyped-call]
    elif head == _ZSTD_MAGIC or (head[1:] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        # Reading is all that it asks of a file.
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_size=CHUNK, read_across_frames=True)  # type: ignore[arg-type]
    else:
        reader = file
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except _DAMAGED as error:
        raise TarError(f"damaged compressed data: {error}") from error


def _head(file: Readable) -> bytes:
    head = b""
    while len(head) < len(_ZSTD_MAGIC) and (more := file.read(len(_ZSTD_MAGIC) - len(head))):
        head += more
    file.seek(0)
    return head


def compressor(kind: Compression) -> Compressor:
    """A compressor: fast rather than small, since layers made here mostly travel no further than a registry nearby."""
    makers: dict[Compression, Callable[[], Compressor]] = {
        "gzip": lambda: isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, 31),
        "zstd": lambda: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj(),
        "": _Plain,
    }
    return makers[kind]()


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""
