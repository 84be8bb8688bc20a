"""HTTP/2's frames (RFC 9113, sections 4 and 6): bytes to frames, and frames to bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct

from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

MAX_FRAME_MIN = 1 << 14
MAX_FRAME_LIMIT = (1 << 24) - 1
WINDOW_MAX = (1 << 31) - 1
DEFAULT_WINDOW = (1 << 16) - 1

_HEAD = Struct(">HBBBI")
_HEAD_SIZE = 9
_SETTING = Struct(">HI")

Frame = tuple[int, int, int, "bytes | memoryview"]
"""Type, flags, stream, payload. The payload of DATA is a view of the buffer that was fed: it holds until the next frame
is asked for."""


class FrameReader:
    """Cuts a stream of bytes into frames.

    DATA without padding is passed on as it arrives, in pieces, so that no frame is copied only to be whole: each piece
    looks like a frame of its own, the last one bears the flags. All other frames come whole.
    """

    def __init__(self, max_frame: int) -> None:
        """`max_frame` is the largest payload that the peer was told of, in bytes."""
        self._max_frame = max_frame
        self._kept = bytearray()  # the beginning of a frame whose end has not come
        self._data: tuple[int, int, int] | None = None  # flags, stream and missing bytes of DATA that is under way

    def feed(self, data: memoryview) -> Iterator[Frame]:
        """The frames that are in `data`, after what was kept before. `ConnectionFailed` for a frame that is too large."""
        position = 0
        while self._data is not None or self._kept:
            frame, position = self._resume(data, position)
            if frame is None:
                return
            yield frame
        size = len(data)
        while size - position >= _HEAD_SIZE:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            length = high << 8 | low
            if length > self._max_frame:
                raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = position + _HEAD_SIZE
            end = begin + length
            if end > size:
                if kind != DATA or flags & PADDED:
                    break
                self._data = (flags, stream & WINDOW_MAX, end - size)
                if begin < size:
                    yield DATA, 0, stream & WINDOW_MAX, data[begin:]
                return
            yield kind, flags, stream & WINDOW_MAX, data[begin:end]
            position = end
        if position < size:
            self._kept += data[position:]

    def _resume(self, data: memoryview, position: int) -> tuple[Frame | None, int]:
        """The next frame or piece of one that began in an earlier buffer, or None where `data` does not end it."""
        if self._data is not None:
            flags, stream, missing = self._data
            piece = data[position : position + missing]
            missing -= len(piece)
            self._data = (flags, stream, missing) if missing else None
            frame = (DATA, 0 if missing else flags, stream, piece) if piece else None
            return frame, position + len(piece)
        kept = self._kept
        if len(kept) < _HEAD_SIZE:
            position = self._keep(data, position, _HEAD_SIZE)
            if len(kept) < _HEAD_SIZE:
                return None, position
        high, low, kind, flags, stream = _HEAD.unpack_from(kept)
        length = high << 8 | low
        if length > self._max_frame:
            raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == DATA and not flags & PADDED and length:
            # Only the head is here: what came of a payload would have been passed on.
            self._kept = bytearray()
            self._data = (flags, stream & WINDOW_MAX, length)
            return self._resume(data, position)
        position = self._keep(data, position, _HEAD_SIZE + length)
        if len(kept) < _HEAD_SIZE + length:
            return None, position
        self._kept = bytearray()
        return (kind, flags, stream & WINDOW_MAX, bytes(kept[_HEAD_SIZE:])), position

    def _keep(self, data: memoryview, position: int, wanted: int) -> int:
        """Keep more of `data`, until `wanted` bytes are kept; returns where the rest of it begins."""
        end = position + wanted - len(self._kept)
        self._kept += data[position:end]
        return min(end, len(data))


def unpadded(flags: int, payload: bytes | memoryview) -> bytes | memoryview:
    """The payload of DATA or HEADERS without its padding; `ConnectionFailed` where that is longer than the frame."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "padding beyond its frame")
    return payload[1 : len(payload) - payload[0]]


def check_size(payload: bytes | memoryview, size: int) -> None:
    """`ConnectionFailed` for the payload of a frame that always has another size."""
    if len(payload) != size:
        raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes that has {size}")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The head of a frame whose payload follows."""
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def settings_of(payload: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """The pairs in a SETTINGS frame, whose length is a multiple of six."""
    yield from _SETTING.iter_unpack(payload)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, message: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + message.encode()[:256])
