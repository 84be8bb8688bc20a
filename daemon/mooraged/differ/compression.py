"""Compressed streams of layers, both ways. The work is done in C, without the GIL."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, cast

import zstandard
from isal import igzip, igzip_lib, isal_zlib

from mooraged.differ.frames import Frames
from mooraged.differ.media import Compression
from mooraged.differ.tar.events import TarError

CHUNK = 1 << 20
_READ_SIZE = 1 << 18
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

    def readinto(self, buffer: memoryview, /) -> int: ...

    def seek(self, offset: int, /) -> int: ...


class Compressor(Protocol):
    """What zlib's and zstandard's compressors have in common."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Decompressor:
    """The bytes of a layer, decompressed if they begin as gzip or zstd do.

    Several gzip members or zstd frames in a row are one stream.
    """

    def __init__(self, file: Readable) -> None:
        head = _head(file)
        source: Any = file
        self._frames = Frames()
        if head.startswith(_GZIP_MAGIC):
            source = igzip.open(file)  # type: ignore[no-untyped-call]
        elif head == _ZSTD_MAGIC or (head[1:] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
            source = zstandard.ZstdDecompressor().stream_reader(
                cast(BinaryIO, _Followed(file, self._frames)), read_size=_READ_SIZE, read_across_frames=True
            )
        self._readinto: Callable[[memoryview], int] = source.readinto

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, or a part of it; 0 at the end. `TarError` for compressed data that is damaged."""
        try:
            count = self._readinto(buffer)
        except _DAMAGED as error:
            raise TarError(f"damaged compressed data: {error}") from error
        if not count and not self._frames.whole:
            raise TarError("damaged compressed data: it stops short within a frame of zstd")
        return count


class _Followed:
    """A file whose bytes are told to `frames` as they are read."""

    def __init__(self, file: Readable, frames: Frames) -> None:
        self._file = file
        self._frames = frames

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._frames.feed(data)
        return data


def decompressed(file: Readable | BinaryIO) -> Iterator[bytes]:
    """As `Decompressor`, in pieces that may be kept."""
    source = Decompressor(cast(Readable, file))
    buffer = memoryview(bytearray(CHUNK))
    while count := source.readinto(buffer):
        yield bytes(buffer[:count])


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
