"""A WebSocket on a connection that has asked for one (RFC 6455)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from moorage_api.errors import InvalidArgument
from moorage_cri.streaming.http import Front, Request
from moorage_cri.streaming.transport import Transport

NORMAL = 1000
GOING_AWAY = 1001
POLICY = 1008


class WebSocket:
    """The server's end of an open WebSocket."""

    def __init__(self, transport: Transport, connection: WSConnection) -> None:
        self._transport = transport
        self._connection = connection

    @classmethod
    async def accept(cls, front: Front, request: Request, subprotocol: str) -> WebSocket:
        """Answer the request. `InvalidArgument` for a handshake that is not one."""
        connection = WSConnection(ConnectionType.SERVER)
        try:
            connection.initiate_upgrade_connection(list(request.headers), request.target)
            accept = connection.send(AcceptConnection(subprotocol=subprotocol or None))
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise InvalidArgument(f"WebSocket handshake: {error}") from error
        rest = front.hand_over()
        await front.transport.write(accept)
        if rest:
            connection.receive_data(rest)
        return cls(front.transport, connection)

    async def messages(self) -> AsyncIterator[BytesMessage | TextMessage]:
        """Pieces of messages, until the client closes. `InvalidArgument` when it breaks the protocol."""
        while True:
            try:
                for event in self._connection.events():
                    if isinstance(event, Ping):
                        await self._transport.write(self._connection.send(event.response()))
                    elif isinstance(event, CloseConnection):
                        await self._answer_close(event)
                        return
                    elif isinstance(event, BytesMessage | TextMessage):
                        yield event
                data = await self._transport.read()
                if not data:
                    return
                self._connection.receive_data(data)
            except RemoteProtocolError as error:
                raise InvalidArgument(f"WebSocket: {error}") from error

    async def send(self, data: bytes | str) -> None:
        """Send one message. Nothing after the close."""
        with suppress(LocalProtocolError):
            message = BytesMessage(data) if isinstance(data, bytes) else TextMessage(data)
            await self._transport.write(self._connection.send(message))

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say that nothing more will be sent; the client answers by closing."""
        with suppress(LocalProtocolError):
            await self._transport.write(self._connection.send(CloseConnection(code, reason[:100])))

    def gone(self) -> bool:
        return self._transport.gone()

    async def _answer_close(self, event: CloseConnection) -> None:
        with suppress(LocalProtocolError):
            await self._transport.write(self._connection.send(event.response()))


class Tunnel:
    """A pipe of bytes over binary messages, whose limits mean nothing."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._messages = socket.messages()

    async def read(self) -> bytes:
        async for message in self._messages:
            if isinstance(message, TextMessage):
                raise InvalidArgument("text message in a tunnel")
            if message.data:
                return bytes(message.data)
        return b""

    async def write(self, data: bytes) -> None:
        if data:
            await self._socket.send(data)

    def gone(self) -> bool:
        return self._socket.gone()
