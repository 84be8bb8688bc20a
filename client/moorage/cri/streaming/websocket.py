"""Streams as channels of a WebSocket (RFC 6455, and the `channel.k8s.io` subprotocols)."""

from __future__ import annotations

import ssl
import struct
from collections import deque
from collections.abc import Iterator, Sequence

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from moorage.cri.streaming.link import Piece, Stream
from moorage.cri.streaming.transport import Transport
from moorage_api.errors import MoorageError, Unavailable, Unimplemented
from moorage_api.streaming.channels import (
    CLOSE,
    SUBPROTOCOLS,
    ChannelClosed,
    ChannelEvent,
    Demultiplexer,
    Subprotocol,
    message,
)

COMMAND = ("v5.channel.k8s.io", "v4.channel.k8s.io")
PORT = ("v4.channel.k8s.io",)
_PORT_DATA, _PORT_ERROR = 0, 1
_PORT_HEAD = struct.calcsize("<H")


class ChannelLink:
    """A WebSocket with a channel for each `Stream`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._subprotocol = Subprotocol("")
        self._demultiplexer = Demultiplexer(self._subprotocol)
        self._pieces: deque[Piece] = deque()
        self._events: deque[Event] = deque()

    @classmethod
    async def command(cls, url: str, streams: Sequence[Stream], tls: ssl.SSLContext | None = None) -> ChannelLink:
        """The streams of a command or a container; which there are, the server knows from the call."""
        return await cls._connect(url, COMMAND, tls)

    @classmethod
    async def _connect(cls, url: str, offered: Sequence[str], tls: ssl.SSLContext | None) -> ChannelLink:
        link = cls(await Transport.connect(url, tls))
        try:
            await link._handshake(offered)
        except BaseException:
            await link._transport.close()
            raise
        return link

    async def _handshake(self, offered: Sequence[str]) -> None:
        transport = self._transport
        request = Request(host=transport.url.netloc, target=transport.target, subprotocols=list(offered))
        await transport.write(self._connection.send(request))
        status, text = 0, b""
        while (event := await self._event()) is not None:
            if isinstance(event, AcceptConnection):
                self._subprotocol = SUBPROTOCOLS.get(event.subprotocol or "", self._subprotocol)
                self._demultiplexer = Demultiplexer(self._subprotocol)
                return
            if isinstance(event, RejectConnection):
                status = event.status_code
            elif isinstance(event, RejectData):
                text += event.data
                if event.body_finished:
                    break
        raise Unavailable(f"the stream server refused: {status} {text.decode(errors='replace').strip()}")

    async def send(self, stream: Stream, data: bytes) -> None:
        await self._message(message(self._subprotocol, self._channel(stream), data))

    async def end(self, stream: Stream) -> None:
        if not self._subprotocol.closes:
            raise Unimplemented(f"{self._subprotocol.name} cannot close a single channel: use SPDY")
        await self._message(bytes((CLOSE, self._channel(stream))))

    async def receive(self) -> Piece | None:
        while not self._pieces:
            event = await self._event()
            if event is None or isinstance(event, CloseConnection):
                return None
            if isinstance(event, BytesMessage | TextMessage):
                self._pieces.extend(self._read(event))
            elif isinstance(event, Ping):
                await self._transport.write(self._connection.send(event.response()))
        return self._pieces.popleft()

    async def close(self) -> None:
        try:
            await self._transport.write(self._connection.send(CloseConnection(1000)))
        except (LocalProtocolError, Unavailable):
            return
        finally:
            await self._transport.close()

    def _channel(self, stream: Stream) -> int:
        return int(stream)

    def _stream(self, channel: int) -> Stream:
        return Stream(channel)

    def _read(self, event: BytesMessage | TextMessage) -> Iterator[Piece]:
        found: Iterator[ChannelEvent]
        if isinstance(event, TextMessage):
            found = self._demultiplexer.receive_text(event.data, finished=event.message_finished)
        else:
            found = self._demultiplexer.receive_bytes(bytes(event.data), finished=event.message_finished)
        for each in found:
            if isinstance(each, ChannelClosed):
                yield Piece(self._stream(each.channel), end=True)
            elif each.data:
                yield Piece(self._stream(each.channel), each.data)

    async def _event(self) -> Event | None:
        """What came next; None at the end of the connection."""
        while not self._events:
            data = await self._transport.read()
            try:
                self._connection.receive_data(data or None)
                self._events.extend(self._connection.events())
            except RemoteProtocolError as error:
                raise MoorageError(f"WebSocket: {error}") from error
            if not data:
                break
        return self._events.popleft() if self._events else None

    async def _message(self, content: bytes | str) -> None:
        event = BytesMessage(content) if isinstance(content, bytes) else TextMessage(content)
        try:
            await self._transport.write(self._connection.send(event))
        except LocalProtocolError as error:
            raise Unavailable("the stream server has closed the WebSocket") from error


class PortLink(ChannelLink):
    """One connection to a port: a channel for its bytes, a channel for what went wrong; each begins with the port."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._heads = {_PORT_DATA: _PORT_HEAD, _PORT_ERROR: _PORT_HEAD}

    @classmethod
    async def port(cls, url: str, port: int, tls: ssl.SSLContext | None = None) -> ChannelLink:
        """Connect to the only port that the call named."""
        return await cls._connect(url, PORT, tls)

    def _channel(self, stream: Stream) -> int:
        return _PORT_DATA

    def _stream(self, channel: int) -> Stream:
        return Stream.ERROR if channel == _PORT_ERROR else Stream.STDOUT

    def _read(self, event: BytesMessage | TextMessage) -> Iterator[Piece]:
        for piece in super()._read(event):
            channel = _PORT_ERROR if piece.stream is Stream.ERROR else _PORT_DATA
            head = min(self._heads[channel], len(piece.data))
            self._heads[channel] -= head
            if piece.data[head:] or piece.end:
                yield Piece(piece.stream, piece.data[head:], piece.end)
