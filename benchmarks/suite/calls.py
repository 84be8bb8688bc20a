"""Unary gRPC calls over one Unix socket, one at a time, by a client that takes little time itself.

grpcio spends some 0.2 ms of a call in its own layers and threads. That is the same for both sides of a comparison, and
moves each ratio towards 1; what is measured here is what the daemons take. What goes over the wire is what any client
sends: HTTP/2 (RFC 9113) with HPACK's dynamic table (RFC 7541), a stream a call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

import hpack
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Headers = tuple[tuple[str, str], ...]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_HEAD = struct.Struct(">BHBBI")
_PREFIX = struct.Struct(">BI")
# Answers of a whole benchmark, for which no more room is ever given.
_ROOM = (1 << 31) - 1 - 65535
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
        self._received = bytearray()
        settings = _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _ROOM))
        self._socket.sendall(_PREFACE + settings + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _ROOM)))

    def close(self) -> None:
        self._socket.close()

    def call(self, path: str, request: bytes, metadata: Headers) -> bytes:
        """The answer to a request. `CallFailed`."""
        self._stream += 2
        headers = _frame(_HEADERS, _END_HEADERS, self._stream, self._block(path, metadata))
        message = _frame(_DATA, _END_STREAM, self._stream, _PREFIX.pack(0, len(request)) + request)
        self._socket.sendall(headers + message)
        answer, trailers = b"", {}
        while "grpc-status" not in trailers:
            kind, flags, stream, payload = self._frame()
            if kind == _HEADERS:
                trailers = dict(self._decoder.decode(payload))
            elif kind == _DATA:
                answer += payload
            else:
                self._serve(kind, flags, stream, payload)
        if trailers["grpc-status"] != "0":
            raise CallFailed(f"{path}: {trailers}")
        return answer[_PREFIX.size :]

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

    def _frame(self) -> tuple[int, int, int, bytes]:
        """The next frame: type, flags, stream and payload."""
        while True:
            received = self._received
            if len(received) >= _HEAD.size:
                high, low, kind, flags, stream = _HEAD.unpack_from(received)
                end = _HEAD.size + (high << 16 | low)
                if len(received) >= end:
                    payload = bytes(received[_HEAD.size : end])
                    del received[:end]
                    return kind, flags, stream, payload
            data = self._socket.recv(_CHUNK)
            if not data:
                raise CallFailed("the daemon closed the connection")
            received += data

    def _serve(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What is no part of an answer."""
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind in (_RESET, _GOAWAY):
            raise CallFailed(f"the daemon ended stream {stream or self._stream}: {payload!r}")


class Service:
    """The unary methods of a service, by their names: `tasks.Start(request, metadata)`."""

    def __init__(self, connection: Connection, descriptor: ServiceDescriptor) -> None:
        self._connection = connection
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Callable[[Message, Headers], Any]:
        method = self._descriptor.methods_by_name[name]
        path = f"/{self._descriptor.full_name}/{name}"
        parse = GetMessageClass(method.output_type).FromString
        call = lambda request, metadata: parse(self._connection.call(path, request.SerializeToString(), metadata))  # noqa: E731
        setattr(self, name, call)
        return call


def _fields(path: str, seconds: int) -> Iterable[tuple[str, str]]:
    yield ":method", "POST"
    yield ":scheme", "http"
    yield ":path", path
    yield ":authority", "localhost"
    yield "te", "trailers"
    yield "content-type", "application/grpc"
    yield "user-agent", "moorage-benchmark"
    yield "grpc-timeout", f"{seconds}S"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload
