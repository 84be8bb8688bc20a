"""Unary gRPC calls over one Unix socket, one at a time, by a client that takes little time itself.

grpcio spends some 0.2 ms of a call in its own layers and threads. That is the same for both sides of a comparison, and
moves each ratio towards 1; what is measured here is what the daemons take. What goes over the wire is what any client
sends: HTTP/2 (RFC 9113) with HPACK's dynamic table (RFC 7541), a stream a call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, cast

import grpc
import hpack
from google.protobuf.message import Message

from moorage_api.remote.channel import Channel
from mooraged.grpc_server import frames
from mooraged.grpc_server.messages import PREFIX
from mooraged.grpc_server.peer import INITIAL_WINDOW_SIZE

Headers = tuple[tuple[str, str], ...]

# Answers of a whole benchmark, for which no more room is ever given.
_ROOM = frames.WINDOW_MAX - frames.DEFAULT_WINDOW
_CHUNK = 64 << 10


class CallFailed(Exception):
    """The daemon answered with a status that is not OK, or not at all."""


class Connection:
    """A connection for one thread. `seconds` bounds the wait for an answer's next bytes; `OSError` after it."""

    def __init__(self, address: str, seconds: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        # The kernel's own limit: with Python's each read would be two system calls.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._blocks: dict[tuple[str, Headers], bytes] = {}
        self._seconds = seconds
        self._stream = -1
        self._frames = frames.FrameReader(frames.MAX_FRAME_MIN)
        settings = frames.settings({INITIAL_WINDOW_SIZE: _ROOM})
        self._socket.sendall(frames.PREFACE + settings + frames.window_update(0, _ROOM))

    def close(self) -> None:
        self._socket.close()

    def call(self, path: str, request: bytes, metadata: Headers) -> bytes:
        """The answer to a request. `CallFailed`."""
        self._stream += 2
        headers = frames.frame(frames.HEADERS, frames.END_HEADERS, self._stream, self._block(path, metadata))
        message = PREFIX.pack(0, len(request)) + request
        self._socket.sendall(headers + frames.frame(frames.DATA, frames.END_STREAM, self._stream, message))
        answer, trailers = b"", {}
        while "grpc-status" not in trailers:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise CallFailed("the daemon closed the connection")
            for kind, flags, stream, payload in self._frames.feed(memoryview(data)):
                if kind == frames.HEADERS:
                    trailers = dict(self._decoder.decode(bytes(payload)))
                elif kind == frames.DATA:
                    answer += payload
                else:
                    self._serve(kind, flags, stream, bytes(payload))
        if trailers["grpc-status"] != "0":
            raise CallFailed(f"{path}: {trailers}")
        return answer[PREFIX.size :]

    def _block(self, path: str, metadata: Headers) -> bytes:
        """The same call is the same bytes, as long as HPACK's table is the same."""
        block = self._blocks.get((path, metadata))
        if block is None:
            table = self._encoder.header_table.dynamic_entries
            before = len(table)
            block = self._encoder.encode([*_fields(path, self._seconds), *metadata])
            if len(table) == before:
                self._blocks[path, metadata] = block
            else:
                self._blocks.clear()
        return block

    def _serve(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What is no part of an answer."""
        if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
            self._socket.sendall(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))
        elif kind in (frames.RST_STREAM, frames.GOAWAY):
            raise CallFailed(f"the daemon ended stream {stream or self._stream}: {payload!r}")


class LeanChannel(Channel):
    """A channel of the clients in `moorage_api.remote`, for one thread: its unary calls go over a `Connection`, streams as ever.
    `CallFailed` for errors of the daemon."""

    def __init__(self, name: str, address: str, *, timeout: int, namespace: str) -> None:
        super().__init__(name, address, timeout=timeout, namespace=namespace)
        self._connection = Connection(address, timeout)
        self._streaming = self.grpc
        self.grpc = lean(self._connection, self._streaming)

    def close(self) -> None:
        self._connection.close()
        self._streaming.close()


def lean(connection: Connection, streaming: grpc.Channel) -> grpc.Channel:
    """A channel for stubs, of which all that is not unary is `streaming`'s."""
    return cast(grpc.Channel, _Unary(connection, streaming))


class _Unary:
    """Its calls take a `timeout`, as grpcio's do; it is the connection's that holds."""

    def __init__(self, connection: Connection, streaming: grpc.Channel) -> None:
        self._connection = connection
        self._streaming = streaming

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Message], bytes],
        response_deserializer: Callable[[bytes], Any],
        **_: Any,
    ) -> Callable[..., Any]:
        def call(request: Message, metadata: Headers, timeout: float = 0) -> Any:
            return response_deserializer(self._connection.call(path, request_serializer(request), metadata))

        return call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streaming, name)


def _fields(path: str, seconds: int) -> Iterable[tuple[str, str]]:
    yield ":method", "POST"
    yield ":scheme", "http"
    yield ":path", path
    yield ":authority", "localhost"
    yield "te", "trailers"
    yield "content-type", "application/grpc"
    yield "user-agent", "moorage-benchmark"
    yield "grpc-timeout", f"{seconds}S"
