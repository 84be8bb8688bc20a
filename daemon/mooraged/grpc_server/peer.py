"""What the client wants of what it is sent (RFC 9113, section 6.5)."""

from __future__ import annotations

from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(2, 7)
_VALUES_MAX = 100


class PeerSettings:
    """The client's settings, as far as they matter here: nothing is pushed, no table of HPACK's is used for sending, and a
    response's headers are small."""

    def __init__(self) -> None:
        self.known = False  # whether the client has sent any: that is its first frame
        self.window = frames.DEFAULT_WINDOW
        self.max_frame = frames.MAX_FRAME_MIN

    def update(self, payload: bytes | memoryview) -> int:
        """Take in a SETTINGS frame; returns by how much the windows of open streams change. `ConnectionFailed` for values
        that cannot be."""
        self.known = True
        if len(payload) % 6:
            raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that are cut off")
        if len(payload) > 6 * _VALUES_MAX:
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        before = self.window
        for key, value in frames.settings_of(payload):
            if key == ENABLE_PUSH and value > 1:
                raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
            if key == INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX:
                    raise ConnectionFailed(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
                self.window = value
            elif key == MAX_FRAME_SIZE:
                if not frames.MAX_FRAME_MIN <= value <= frames.MAX_FRAME_LIMIT:
                    raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "frames of a size that HTTP/2 does not have")
                self.max_frame = value
        return self.window - before
