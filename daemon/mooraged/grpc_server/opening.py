"""How a connection begins (RFC 9113, section 3.4), and what whoever begins otherwise is told."""

from __future__ import annotations

import re

from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode

_METHOD = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE) ")
_TEXT = b"This socket speaks gRPC, over HTTP/2 with prior knowledge.\n"
_HTTP1 = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(_TEXT), _TEXT)
)


class Opening:
    """Takes HTTP/2's preface off what a client sends. `refusal` is what to answer instead of serving it."""

    def __init__(self) -> None:
        self.done = False
        self.refusal = b""
        self._kept = b""

    def feed(self, data: memoryview) -> memoryview:
        """What follows the preface, once that is whole. `ConnectionFailed` where it is something else."""
        missing = len(frames.PREFACE) - len(self._kept)
        self._kept += data[:missing]
        if self._kept == frames.PREFACE:
            self.done = True
        elif not frames.PREFACE.startswith(self._kept):
            if _METHOD.match(self._kept):
                self.refusal = _HTTP1
            # The first letters of a method may be those of the preface, but no method begins with all of the preface's.
            elif len(self._kept) >= 8 or not _METHOD_BEGUN.fullmatch(self._kept):
                raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2's preface")
        return data[missing:]


_METHOD_BEGUN = re.compile(rb"[A-Z]{1,7}")
