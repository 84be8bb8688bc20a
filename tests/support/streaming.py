"""Clients of the streaming server, as kubectl and crictl are: over SPDY and over WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from moorage_api.streaming.spdy import events
from moorage_api.streaming.spdy.session import Session

SECONDS = 30.0
V4 = "v4.channel.k8s.io"
PORT_FORWARD = "portforward.k8s.io"


class Refused(Exception):
    """The server did not switch protocols: its status, and the rest of the answer."""

    def __init__(self, status: int, answer: str) -> None:
        super().__init__(f"{status}: {answer}")
        self.status = status
        self.answer = answer


class Spdy:
    """One connection. `receive` reads until a condition holds; what came is in `data`, `ended`, `reset` by stream."""

    def __init__(self, read: Callable[[], Any], write: Callable[[bytes], Any]) -> None:
        self.session = Session(client=True)
        self.protocol = ""
        self.data: dict[int, bytearray] = {}
        self.accepted: set[int] = set()
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.pings: set[int] = set()
        self.closed = False
        self.abort: Callable[[], None] = lambda: None
        self._read = read
        self._write = write

    async def open(self, headers: Mapping[str, str], *, end: bool = False) -> int:
        stream = self.session.open(headers, end=end)
        await self.flush()
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.session.send(stream, data, end=end)
        await self.flush()

    async def flush(self) -> None:
        await self._write(self.session.take())

    async def receive(self, until: Callable[[], bool], seconds: float = SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not until():
                data = await self._read()
                if not data:
                    self.closed = True
                    return
                for event in self.session.receive(data):
                    self._note(event)

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.DataReceived):
            self.data.setdefault(event.stream, bytearray()).extend(event.data)
        elif isinstance(event, events.StreamAccepted):
            self.accepted.add(event.stream)
        elif isinstance(event, events.StreamEnded):
            self.ended.add(event.stream)
        elif isinstance(event, events.StreamReset):
            self.reset.add(event.stream)
        elif isinstance(event, events.PingAnswered):
            self.pings.add(event.id)


@asynccontextmanager
async def spdy(
    url: str, *protocols: str, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Spdy]:
    """Connect and upgrade. `Refused`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
    try:
        fields = {"Host": parts.netloc, "Connection": "Upgrade", "Upgrade": "SPDY/3.1", **(headers or {})}
        lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        lines += [f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        if status != 101:
            raise Refused(status, head + (await reader.read()).decode())

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        client = Spdy(lambda: reader.read(65536), write)

        def abort() -> None:
            """Reset the connection: what is unsent is dropped, so that the end is seen at once."""
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        client.abort = abort
        answer = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        client.protocol = answer["x-stream-protocol-version"]
        yield client
    finally:
        writer.close()


class Command:
    """Exec or Attach over SPDY: the streams by name."""

    def __init__(self, connection: Spdy, streams: Mapping[str, int]) -> None:
        self.connection = connection
        self.streams = streams

    @classmethod
    async def open(cls, connection: Spdy, *names: str) -> Self:
        """Open the error stream and those named."""
        opened = {}
        for name in ("error", *names):
            opened[name] = await connection.open({"streamType": name})
        return cls(connection, opened)

    def output(self, name: str) -> bytes:
        return bytes(self.connection.data.get(self.streams[name], b""))

    async def send(self, name: str, data: bytes, *, end: bool = False) -> None:
        await self.connection.send(self.streams[name], data, end=end)

    async def until(self, name: str, text: bytes) -> None:
        """Read until an output has the text."""
        await self.connection.receive(lambda: text in self.output(name))
        assert text in self.output(name), self.output(name)

    async def status(self) -> dict[str, Any]:
        """Read to the end; returns the status document."""
        await self.connection.receive(lambda: self.streams["error"] in self.connection.ended)
        found: dict[str, Any] = json.loads(self.output("error"))
        return found


class Channels:
    """Exec, Attach or PortForward in the channels of a WebSocket."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = connection
        self.data: dict[int, bytes] = {}
        self.messages = 0

    async def send(self, channel: int, data: bytes) -> None:
        await self.socket.send_bytes(bytes((channel,)) + data)

    async def receive(self, until: Callable[[], bool] = lambda: False, seconds: float = SECONDS) -> None:
        """Read until a condition holds, or to the close."""
        async with asyncio.timeout(seconds):
            while not until():
                message = await self.socket.receive()
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return
                self.messages += 1
                self.data[message.data[0]] = self.data.get(message.data[0], b"") + message.data[1:]


@asynccontextmanager
async def websocket(
    url: str, protocols: Sequence[str], tls: ssl.SSLContext | None = None
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a WebSocket with one of the subprotocols."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=protocols, ssl=tls or True) as connection,
    ):
        yield connection


async def tunnel(connection: aiohttp.ClientWebSocketResponse) -> Spdy:
    """SPDY in the binary messages of a WebSocket."""

    async def read() -> bytes:
        message = await connection.receive()
        return bytes(message.data) if message.type is aiohttp.WSMsgType.BINARY else b""

    return Spdy(read, connection.send_bytes)
