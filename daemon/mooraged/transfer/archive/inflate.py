"""Decompression of a stream that arrives in pieces: bytes in, bytes out, each piece out of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, cast

import zstandard
from isal import igzip_lib, isal_zlib

from moorage_api.errors import InvalidArgument, ResourceExhausted
from mooraged.differ.frames import Frames

_CHUNK = 1 << 20
_HEAD = 4
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zX": "xz"}
RATIO_MAX = 1000
RATIO_FLOOR = 1 << 30
"""A compressed archive may become `RATIO_MAX` times its size; below `RATIO_FLOOR` bytes nobody counts."""
# The stubs of isal have an instance where its exception class is.
_DAMAGED: tuple[type[Exception], ...] = (zstandard.ZstdError, igzip_lib.IsalError)  # type: ignore[assignment]


class Inflate:
    """Gives to `output` what is written, decompressed if it begins as gzip or zstd do. What `output` raises comes out
    of `write`. `InvalidArgument` for damaged data, `ResourceExhausted` for a bomb."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output
        self._head = b""
        self._write: Callable[[bytes], None] | None = None
        self._member: Any = None  # isal names no type for it
        self._frames = Frames()
        self._taken = 0
        self._given = 0

    def write(self, data: bytes) -> None:
        self._taken += len(data)
        try:
            if self._write is None:
                data, self._head = self._head + data, b""
                if len(data) < _HEAD:
                    self._head = data
                    return
                self._write = self._chosen(data)
            self._write(data)
        except _DAMAGED as error:
            raise InvalidArgument(f"the archive's compressed data is damaged: {error}") from error

    def finish(self) -> None:
        """Say that there is no more. `InvalidArgument` where a gzip member or a frame of zstd stops short."""
        if self._write is None and self._head:
            self._output(self._head)
        if (self._member is not None and not self._member.eof) or not self._frames.whole:
            raise InvalidArgument("the archive's compressed data stops short")

    def _chosen(self, data: bytes) -> Callable[[bytes], None]:
        other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), "")
        if other:
            raise InvalidArgument(f"the archive is compressed with {other}: expected gzip, zstd or no compression")
        if data.startswith(_GZIP_MAGIC):
            return self._gzip
        if data.startswith(_ZSTD_MAGIC):
            writer = zstandard.ZstdDecompressor().stream_writer(
                cast(IO[bytes], _Output(self._give)), write_size=_CHUNK, closefd=False
            )

            def follow(data: bytes) -> None:
                self._frames.feed(data)
                writer.write(data)

            return follow
        return self._output

    def _gzip(self, data: bytes) -> None:
        """One member after the other; zeros after the last are padding."""
        while data:
            if self._member is None or self._member.eof:
                data = data.lstrip(b"\0") if self._member is not None else data
                if not data:
                    return
                self._member = isal_zlib.decompressobj(31)
            self._give(self._member.decompress(data, _CHUNK))
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def _give(self, data: bytes) -> None:
        self._given += len(data)
        if self._given > RATIO_FLOOR and self._given > self._taken * RATIO_MAX:
            raise ResourceExhausted(f"the archive becomes more than {RATIO_MAX} times its size")
        if data:
            self._output(data)


class _Output:
    """As a file that zstandard writes to."""

    def __init__(self, give: Callable[[bytes], None]) -> None:
        self._give = give

    def write(self, data: bytes) -> int:
        self._give(bytes(data))
        return len(data)
