"""A ttrpc server over the shim's loop: a coroutine a call, any number of connections."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from moorage_api import ttrpc
from moorage_api.errors import Internal, InvalidArgument, MoorageError, Unimplemented
from moorage_shim import log
from moorage_shim.loop import READ, WRITE, Loop, read_some

_CHUNK = 64 << 10
# Answers that a client does not read; then the connection is closed.
_BACKLOG = 16 << 20

Handler = Callable[[Any, float | None], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Method:
    """One method: whose it is, and what it takes."""

    service: str
    name: str
    request: type[Message]


def method_table(services: Iterable[tuple[str, ServiceDescriptor]]) -> dict[tuple[str, str], Method]:
    """The methods of services by (service, method); each service may be offered under another name than its own."""
    return {
        (service, method.name): Method(service, method.name, GetMessageClass(method.input_type))
        for service, descriptor in services
        for method in descriptor.methods
    }


class Server:
    """Accepts connections of this user and of root on a listening socket.

    A method is answered by the coroutine of its name on the service's object, which gets the request and the caller's
    timeout in seconds, or None.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        methods: Mapping[tuple[str, str], Method],
        services: Mapping[str, object],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._methods = methods
        self._services = services
        self._connections: set[_Connection] = set()
        listener.setblocking(False)
        loop.watch(listener.fileno(), READ, self._on_client)

    def close(self) -> None:
        """Take no more connections and end those that there are, with the answers that are ready written out."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def wake(self) -> None:
        """Go on after a rest."""
        self._loop.watch(self._listener.fileno(), READ, self._on_client)
        for connection in self._connections:
            connection.wake()

    async def answer(self, call: ttrpc.RequestReceived) -> Message:
        """Do what is asked. `Unimplemented` for what this shim does not serve."""
        method = self._methods.get((call.service, call.method))
        if method is None:
            raise Unimplemented(f"this shim has no method {call.service}/{call.method}")
        handler: Handler = getattr(self._services[method.service], method.name)
        return await handler(_parse(method.request, call), call.timeout)

    def forget(self, connection: _Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)

    def _on_client(self, _: int) -> None:
        try:
            client, _address = self._listener.accept()
        except BlockingIOError:
            return
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in (0, os.geteuid()):
            client.close()
            return
        client.setblocking(False)
        self._connections.add(_Connection(self._loop, self, client))


class _Connection:
    """One client."""

    def __init__(self, loop: Loop, server: Server, client: socket.socket) -> None:
        self._loop = loop
        self._server = server
        self._socket = client
        self._protocol = ttrpc.Server()
        self._unsent = bytearray()
        self._calls: dict[int, ttrpc.RequestReceived] = {}
        loop.watch(client.fileno(), READ, self._on_ready)

    def wake(self) -> None:
        """Go on after a rest: what waits for an answer asks anew."""
        self._loop.watch(self._socket.fileno(), READ | WRITE if self._unsent else READ, self._on_ready)
        for call in self._calls.values():
            self._loop.background(self._serve(call), call.method)

    def close(self) -> None:
        """End the connection; calls that run go on, and their answers are dropped."""
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._server.forget(self)

    def _on_ready(self, events: int) -> None:
        if events & WRITE and self._unsent:
            self._send(b"")
        if events & ~WRITE and self._socket.fileno() >= 0:
            self._receive()

    def _receive(self) -> None:
        data = read_some(self._socket.fileno(), _CHUNK)
        if data is None:
            return
        if not data:
            self.close()
            return
        try:
            for event in self._protocol.receive(data):
                if isinstance(event, ttrpc.RequestReceived):
                    self._calls[event.stream] = event
                    self._loop.background(self._serve(event), event.method)
                elif isinstance(event, ttrpc.Reply):
                    self._send(event.data)
        except ttrpc.ProtocolError as error:
            log.warning(f"a client broke the protocol: {error.message}")
            self.close()

    async def _serve(self, call: ttrpc.RequestReceived) -> None:
        try:
            answer = await self._server.answer(call)
            data = self._protocol.respond(call.stream, answer.SerializeToString())
        except MoorageError as error:
            data = self._protocol.fail(call.stream, error)
        except Exception as error:  # noqa: BLE001 - a defect: the caller learns that much, the log the rest
            log.failure(f"{call.service}/{call.method}", error)
            data = self._protocol.fail(call.stream, Internal(f"{type(error).__name__}: {error}"))
        self._calls.pop(call.stream, None)
        self._send(data)

    def _send(self, data: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        self._unsent += data
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > _BACKLOG:
                self.close()
                return
        except OSError:
            self.close()
            return
        self._loop.watch(self._socket.fileno(), READ | WRITE if self._unsent else READ, self._on_ready)


def _parse(kind: type[Message], call: ttrpc.RequestReceived) -> Message:
    try:
        return kind.FromString(call.payload)
    except DecodeError as error:
        raise InvalidArgument(f"{call.method}: the request is no {kind.DESCRIPTOR.full_name}") from error
