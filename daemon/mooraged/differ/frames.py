"""Whether a zstd stream is whole, by its frames' own lengths (RFC 8878, section 3.1). Bytes in, an answer out.

A decompressor gives what it has when its input ends, in the middle of a frame too, and does not say so.
"""

from __future__ import annotations

from collections.abc import Callable

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
_BLOCK_RLE = 1
_CHECKSUM = 4
_DICTIONARY_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)


class Frames:
    """Follows a stream from header to header; what is in a block is passed over.

    What is no frame is not followed: then, and between two frames, the stream counts as whole.
    """

    def __init__(self) -> None:
        self._skip = 0
        self._header = bytearray()
        self._wanted = len(_MAGIC)
        self._on_header: Callable[[bytes], None] = self._magic
        self._checksum = False
        self._lost = False

    @property
    def whole(self) -> bool:
        """Whether the stream may end here."""
        return self._lost or (not self._skip and not self._header and self._on_header == self._magic)

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        position = 0
        while position < len(data) and not self._lost:
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
                continue
            taken = data[position : position + self._wanted - len(self._header)]
            position += len(taken)
            self._header += taken
            if len(self._header) == self._wanted:
                header = bytes(self._header)
                self._header.clear()
                self._on_header(header)

    def _expect(self, size: int, then: Callable[[bytes], None]) -> None:
        self._wanted, self._on_header = size, then

    def _magic(self, header: bytes) -> None:
        if header == _MAGIC:
            self._expect(1, self._descriptor)
        elif header[1:] == _SKIPPABLE and header[0] & 0xF0 == 0x50:
            self._expect(4, self._skippable)
        else:
            self._lost = True

    def _skippable(self, header: bytes) -> None:
        self._skip = int.from_bytes(header, "little")
        self._expect(len(_MAGIC), self._magic)

    def _descriptor(self, header: bytes) -> None:
        """The frame header's first byte says how long the rest of it is."""
        single_segment = bool(header[0] & 0x20)
        content_size = _CONTENT_SIZE_BYTES[header[0] >> 6] or single_segment
        self._checksum = bool(header[0] & 0x04)
        self._skip = (not single_segment) + _DICTIONARY_BYTES[header[0] & 0x03] + content_size
        self._expect(3, self._block)

    def _block(self, header: bytes) -> None:
        value = int.from_bytes(header, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        self._skip = 1 if kind == _BLOCK_RLE else size
        if last:
            self._skip += _CHECKSUM if self._checksum else 0
            self._expect(len(_MAGIC), self._magic)
