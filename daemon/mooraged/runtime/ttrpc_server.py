"""A ttrpc server over asyncio: the socket on which shims forward their events."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from moorage_api import ttrpc
from moorage_api.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoorageError,
    Unimplemented,
)
from moorage_api.rpc import Service
from moorage_api.types import check_identifier
from mooraged.logs import trace_call
from mooraged.runtime.stubs import NAMESPACE_METADATA

log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 512
# From an accepted socket to its protocol: a task, its transport, and the call that tells the protocol.
_ROUNDS = 3


class _Call:
    """The circumstances of one ttrpc request (`moorage_api.rpc.Call`)."""

    def __init__(self, request: ttrpc.RequestReceived) -> None:
        self.metadata: Mapping[str, str] = dict(reversed(request.metadata))
        self._timeout = request.timeout
        self._started = asyncio.get_running_loop().time()

    @property
    def namespace(self) -> str:
        name = self.metadata.get(NAMESPACE_METADATA, "")
        if not name:
            raise FailedPrecondition("namespace is required")
        return check_identifier(name, "namespace")

    @property
    def lease(self) -> str:
        return ""

    @property
    def remaining(self) -> float | None:
        if self._timeout is None:
            return None
        return max(0.0, self._started + self._timeout - asyncio.get_running_loop().time())


class TtrpcServer:
    """Serves unary methods of `services` on a Unix socket that only this user may use."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._methods: dict[tuple[str, str], tuple[MethodDescriptor, Service]] = {}
        for service in services:
            name = service.name or service.descriptor.full_name
            for method in service.descriptor.methods:
                self._methods[name, method.name] = (method, service)
        self._server: asyncio.Server | None = None
        self._path = ""
        self._connections: set[_Connection] = set()

    async def start(self, path: str) -> None:
        """Listen at `path`, mode 0600; a socket that a dead daemon left there is replaced."""
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # The mode is that of the descriptor when bind makes the file: there is no moment at which others may connect.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._path = path
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listener)

    async def close(self) -> None:
        """Stop listening, end all connections and calls, remove the socket."""
        if self._server is None:
            return
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        # Who has just been accepted gets its protocol within these rounds of the loop; it would never be ended otherwise.
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        self._server.close()
        for connection in list(self._connections):
            connection.end()
        await self._server.wait_closed()
        self._server = None
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    async def answer(self, request: ttrpc.RequestReceived) -> bytes:
        """The serialised answer to one request; `MoorageError`."""
        call, started = _Call(request), time.monotonic()
        failure: MoorageError | None = None
        try:
            return await self._answer(request, call)
        except MoorageError as error:
            failure = error
            raise
        finally:
            trace_call(f"/{request.service}/{request.method}", started, failure, call)

    async def _answer(self, request: ttrpc.RequestReceived, call: _Call) -> bytes:
        found = self._methods.get((request.service, request.method))
        if found is None:
            raise Unimplemented(f"unknown method {request.service}.{request.method}")
        method, service = found
        try:
            message = GetMessageClass(method.input_type).FromString(request.payload)
        except DecodeError as error:
            raise InvalidArgument(f"request is no {method.input_type.full_name}") from error
        handler = getattr(service.implementation, request.method)
        try:
            async with asyncio.timeout(request.timeout):
                response: Message = await handler(message, call)
        except TimeoutError:
            raise DeadlineExceeded(f"{request.method} took longer than its deadline") from None
        return response.SerializeToString()


class _Connection(asyncio.Protocol):
    """One shim's connection. Its calls are answered in the order in which they finish."""

    def __init__(self, server: TtrpcServer) -> None:
        self._server = server
        self._codec = ttrpc.Server()
        self._transport: asyncio.Transport | None = None
        self._calls: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._connections.add(self)
        if _peer_uid(transport) not in (0, os.geteuid()):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        for call in self._calls:
            call.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            for event in self._codec.receive(data):
                if isinstance(event, ttrpc.Reply):
                    self._transport.write(event.data)
                elif isinstance(event, ttrpc.RequestReceived):
                    call = asyncio.create_task(self._serve(event), name=f"ttrpc {event.service}.{event.method}")
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
        except ttrpc.ProtocolError as error:
            log.warning("a ttrpc client broke the protocol: %s", error.message)
            self._transport.abort()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _serve(self, request: ttrpc.RequestReceived) -> None:
        assert self._transport is not None
        try:
            data = self._codec.respond(request.stream, await self._server.answer(request))
        except MoorageError as error:
            data = self._codec.fail(request.stream, error)
        except Exception:
            log.exception("ttrpc call %s.%s failed", request.service, request.method)
            data = self._codec.fail(
                request.stream, Internal(f"{request.method} failed; the daemon's log has the reason")
            )
        self._transport.write(data)


def _peer_uid(transport: asyncio.Transport) -> int:
    peer = transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])
