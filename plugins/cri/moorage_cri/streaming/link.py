"""A SPDY session on a pipe: streams that are read and written by tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from moorage_api.streaming.spdy import events
from moorage_api.streaming.spdy.errors import GoAway, ProtocolError, Reset
from moorage_api.streaming.spdy.session import STREAMS_MAX, Session
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.transport import Pipe


class Stream:
    """One stream. Its two directions end each for itself."""

    def __init__(self, link: Link, id: int, headers: Mapping[str, str]) -> None:
        self._link = link
        self.id = id
        self.headers = headers
        self.inbox = Inbox(link.pipe.gone)

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while much is unsent; nothing on a stream that the client has reset."""
        await self._link.send(self.id, data)

    async def close(self) -> None:
        """Send no more."""
        await self._link.send(self.id, b"", end=True)

    async def reset(self, reason: Reset = Reset.CANCEL) -> None:
        """End it in both directions."""
        self.inbox.refuse()
        await self._link.reset(self.id, reason)


class Link:
    """The server's end. `run` reads; the streams that the client opens are accepted at once, and wait in `opened`."""

    def __init__(self, pipe: Pipe, rest: bytes = b"") -> None:
        self.pipe = pipe
        self.opened: asyncio.Queue[Stream] = asyncio.Queue(STREAMS_MAX)
        self._rest = rest
        self._session = Session()
        self._streams: dict[int, Stream] = {}

    async def run(self) -> None:
        """Until the client has gone. `ProtocolError` when it breaks the protocol; it is told so."""
        data = self._rest or await self.pipe.read()
        while data:
            try:
                for event in self._session.receive(data):
                    await self._handle(event)
            except ProtocolError:
                self._session.go_away(GoAway.PROTOCOL_ERROR)
                await self._flush()
                raise
            await self._flush()
            data = await self.pipe.read()

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send what belongs to a stream."""
        self._session.send(stream, data, end=end)
        await self._flush()

    async def reset(self, stream: int, reason: Reset) -> None:
        """End a stream."""
        self._streams.pop(stream, None)
        self._session.reset(stream, reason)
        await self._flush()

    def release(self, stream: Stream) -> None:
        """Forget a stream that is of no more use; what comes for it is dropped."""
        stream.inbox.refuse()
        self._streams.pop(stream.id, None)

    async def close(self) -> None:
        """Say that nothing more will be taken."""
        self._session.go_away()
        await self._flush()

    def refuse_all(self) -> None:
        """Drop whatever still comes."""
        for stream in self._streams.values():
            stream.inbox.refuse()

    async def _flush(self) -> None:
        await self.pipe.write(self._session.take())

    async def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.StreamOpened):
            self._open(event)
        elif isinstance(event, events.DataReceived) and event.stream in self._streams:
            await self._streams[event.stream].inbox.put(event.data)
        elif isinstance(event, events.StreamEnded | events.StreamReset) and event.stream in self._streams:
            self._streams[event.stream].inbox.end()

    def _open(self, event: events.StreamOpened) -> None:
        stream = Stream(self, event.stream, event.headers)
        try:
            self.opened.put_nowait(stream)
        except asyncio.QueueFull:
            self._session.reset(event.stream, Reset.REFUSED_STREAM)
            return
        self._streams[event.stream] = stream
        self._session.accept(event.stream)
        if event.ended:
            stream.inbox.end()
