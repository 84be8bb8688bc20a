"""gRPC's messages within the DATA of a stream: a byte that says whether it is compressed, four of length, the message."""

from __future__ import annotations

import zlib
from struct import Struct

from moorage_api.errors import Internal, MoorageError, ResourceExhausted, Unimplemented

PREFIX = Struct(">BI")
_PREFIX_SIZE = 5
# zlib's window bits: 16 more for gzip's header. gRPC's "deflate" has that of zlib.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

Message = bytes | bytearray


class MessageReader:
    """Puts the messages of one stream together."""

    __slots__ = ("_encoding", "_kept", "_max_size", "_wanted")

    def __init__(self, max_size: int, encoding: str) -> None:
        """`Unimplemented` for an encoding that is not known."""
        if encoding != "identity" and encoding not in _WINDOW_BITS:
            raise Unimplemented(f"the encoding {encoding!r} is not supported")
        self._max_size = max_size
        self._encoding = encoding
        self._kept = bytearray()
        self._wanted = _PREFIX_SIZE  # bytes until what is kept tells more, or is a message

    @property
    def partial(self) -> int:
        """Bytes that are kept of a message that has not ended."""
        return len(self._kept)

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that `data` ends. `MoorageError` for one that is too large, as soon as that is known, or cannot be
        decompressed."""
        messages: list[Message] = []
        position, size = 0, len(data)
        while position < size:
            kept = self._kept
            if not kept and size - position >= _PREFIX_SIZE:
                compressed, length = self._prefix(data, position)
                end = position + _PREFIX_SIZE + length
                if end <= size:
                    messages.append(self._message(compressed, bytes(data[position + _PREFIX_SIZE : end])))
                    position = end
                    continue
                self._wanted = _PREFIX_SIZE + length
            end = position + self._wanted - len(kept)
            kept += data[position:end]
            position = min(end, size)
            if len(kept) == self._wanted:
                self._complete(messages)
        return messages

    def _complete(self, messages: list[Message]) -> None:
        """What is kept is a prefix, or a whole message."""
        kept = self._kept
        compressed, length = self._prefix(kept, 0)
        if len(kept) < _PREFIX_SIZE + length:
            self._wanted = _PREFIX_SIZE + length
            return
        self._kept, self._wanted = bytearray(), _PREFIX_SIZE
        del kept[:_PREFIX_SIZE]  # moves nothing: the array begins later
        messages.append(self._message(compressed, kept))

    def _prefix(self, data: bytes | bytearray | memoryview, position: int) -> tuple[int, int]:
        compressed, length = PREFIX.unpack_from(data, position)
        if length > self._max_size:
            raise _too_large(length, self._max_size)
        if compressed > 1:
            raise Internal(f"a message has the flags {compressed:#x}")
        if compressed and self._encoding == "identity":
            raise Internal("a message is compressed, but no encoding was named")
        return compressed, length

    def _message(self, compressed: int, data: Message) -> Message:
        if not compressed:
            return data
        inflate = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            message = inflate.decompress(data, self._max_size + 1)
        except zlib.error as error:
            raise Internal(f"a message cannot be decompressed: {error}") from None
        if len(message) > self._max_size:
            raise _too_large(len(message), self._max_size)
        if not inflate.eof:
            raise Internal("a compressed message is cut off")
        return message


def _too_large(size: int, max_size: int) -> MoorageError:
    return ResourceExhausted(f"Received message larger than max ({size} vs. {max_size})")
