"""Streams over SPDY/3.1, as kubelets and kubectl have it."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping, Sequence

from moorage.cri.streaming.link import Piece, Stream
from moorage.cri.streaming.transport import Transport
from moorage_api.errors import Unavailable
from moorage_api.streaming.spdy import events
from moorage_api.streaming.spdy.session import Session

COMMAND = "v4.channel.k8s.io"
PORT = "portforward.k8s.io"


class SpdyLink:
    """A SPDY session with a stream for each `Stream`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._session = Session(client=True)
        self._ids: dict[Stream, int] = {}
        self._names: dict[int, Stream] = {}
        self._pieces: deque[Piece] = deque()

    @classmethod
    async def command(cls, url: str, streams: Sequence[Stream], tls: ssl.SSLContext | None = None) -> SpdyLink:
        """The streams of a command or a container."""
        link = await cls._upgrade(url, COMMAND, tls)
        for stream in streams:
            await link._open(stream, {"streamType": stream.name.lower()})
        return link

    @classmethod
    async def port(cls, url: str, port: int, tls: ssl.SSLContext | None = None) -> SpdyLink:
        """One connection to a port: its bytes go to STDIN and come from STDOUT, which are one stream."""
        link = await cls._upgrade(url, PORT, tls)
        headers = {"port": str(port), "requestID": "0"}
        await link._open(Stream.ERROR, {**headers, "streamType": "error"}, end=True)
        await link._open(Stream.STDOUT, {**headers, "streamType": "data"})
        link._ids[Stream.STDIN] = link._ids[Stream.STDOUT]
        return link

    @classmethod
    async def _upgrade(cls, url: str, protocol: str, tls: ssl.SSLContext | None) -> SpdyLink:
        transport = await Transport.connect(url, tls)
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)]
        try:
            await transport.upgrade("POST", headers)
        except BaseException:
            await transport.close()
            raise
        return cls(transport)

    async def _open(self, stream: Stream, headers: Mapping[str, str], *, end: bool = False) -> None:
        id = self._session.open(headers, end=end)
        self._ids[stream], self._names[id] = id, stream
        await self._flush()

    async def send(self, stream: Stream, data: bytes) -> None:
        self._session.send(self._ids[stream], data)
        await self._flush()

    async def end(self, stream: Stream) -> None:
        self._session.send(self._ids[stream], b"", end=True)
        await self._flush()

    async def receive(self) -> Piece | None:
        while not self._pieces:
            data = await self._transport.read()
            if not data:
                return None
            for event in self._session.receive(data):
                self._note(event)
            await self._flush()
        return self._pieces.popleft()

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.DataReceived):
            self._pieces.append(Piece(self._names[event.stream], event.data))
        elif isinstance(event, events.StreamEnded | events.StreamReset):
            self._pieces.append(Piece(self._names[event.stream], end=True))

    async def _flush(self) -> None:
        data = self._session.take()
        if data:
            await self._transport.write(data)

    async def close(self) -> None:
        try:
            self._session.go_away()
            await self._flush()
        except Unavailable:
            return
        finally:
            await self._transport.close()
