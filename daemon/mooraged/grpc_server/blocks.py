"""Header blocks that come in several frames (RFC 9113, sections 4.3, 6.2 and 6.10)."""

from __future__ import annotations

from dataclasses import dataclass

from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode
from mooraged.grpc_server.headers import LIST_SIZE

_SIZE_MAX = LIST_SIZE
# Empty ones cost the client nothing, and would never end.
_CONTINUATIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Block:
    """A whole block. `last` says that the stream has nothing after it."""

    stream: int
    last: bool
    data: bytes


class BlockReader:
    """Puts the block of HEADERS and its CONTINUATIONs together. `ConnectionFailed` for frames that do not fit, and for a
    block that is too large."""

    def __init__(self) -> None:
        self.stream = 0  # whose block has begun and not ended; nothing else may come before it has
        self._last = False
        self._data = bytearray()
        self._count = 0

    def headers(self, flags: int, stream: int, payload: bytes | memoryview) -> Block | None:
        """The block of a HEADERS frame, if it is whole."""
        data = frames.unpadded(flags, payload)
        if flags & frames.PRIORITISED:
            if len(data) < 5:
                raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
            data = data[5:]
        if len(data) > _SIZE_MAX:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, "headers that are too large")
        last = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            return Block(stream, last, bytes(data))
        self.stream, self._last, self._data, self._count = stream, last, bytearray(data), 0
        return None

    def continuation(self, flags: int, stream: int, payload: bytes | memoryview) -> Block | None:
        """The block that a CONTINUATION frame ends, if it does."""
        if not self.stream:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._count += 1
        if len(self._data) + len(payload) > _SIZE_MAX or self._count > _CONTINUATIONS_MAX:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, "headers that are too large")
        self._data += payload
        if not flags & frames.END_HEADERS:
            return None
        self.stream = 0
        return Block(stream, self._last, bytes(self._data))
