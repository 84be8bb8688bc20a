"""Flow control (RFC 9113, section 5.2): what may be sent, and what is promised to be received."""

from __future__ import annotations

from mooraged.grpc_server.failures import ErrorCode

STREAM_WINDOW = 1 << 20
"""What a client may send on a stream before the handler takes it, in bytes: a message of `Content.Write` while the one
before is being written."""
CONNECTION_WINDOW = 8 << 20


class ReceiveWindow:
    """What the peer may still send, and when it is told that it may send more."""

    __slots__ = ("_room", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._room = size

    def take(self, size: int) -> bool:
        """Count what has come; False where it was more than was promised."""
        self._room -= size
        return self._room >= 0

    def grant(self, held: int = 0) -> int:
        """What to add for the peer while `held` bytes wait to be read: 0 until it is a quarter of the window, so that there
        are few updates, and the peer never waits for one in vain."""
        more = self._size - self._room - held
        if more < self._size >> 2:
            return 0
        self._room += more
        return more


EXCEEDED = ErrorCode.FLOW_CONTROL_ERROR, "more data than the window has room for"
