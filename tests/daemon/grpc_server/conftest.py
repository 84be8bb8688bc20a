"""A connection without a socket, and a real HTTP/2 client (the library h2) at its other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from moorage_api.errors import Code, Unimplemented
from mooraged.grpc_server.connection import Connection
from mooraged.grpc_server.messages import PREFIX
from mooraged.grpc_server.stream import Method, Stream

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test/Echo"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def message(data: bytes, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, len(data)) + data


def headers(**changes: str) -> list[tuple[str, str]]:
    """Those of a call, with other values: `path=…` for the pseudo-header, `grpc_timeout=…` for a regular one."""
    found = dict(HEADERS)
    for name, value in changes.items():
        found[f":{name}" if f":{name}" in found else name.replace("_", "-")] = value
    return list(found.items())


class Wire:
    """What the server writes, and whether it has closed. `paused` is what a test makes it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data: bytes) -> None:
        self.sent += data

    write_soon = write

    def write_from_thread(self, data: bytes, claim: Callable[[], bool]) -> bool:
        if self.paused or not claim():
            return False
        self.write(data)
        return True

    def close(self) -> None:
        self.closed = True


class Application:
    """Answers with what it is asked."""

    max_recv = 1 << 20
    max_send = 1 << 20

    def __init__(self) -> None:
        self.running: list[Stream] = []
        self.cancelled: list[int] = []
        self.taken: list[bytes] = []
        self.go = asyncio.Event()

    def find(self, path: str) -> Method:
        methods = {
            "/test/Echo": Method(False, self._echo),
            "/test/Each": Method(True, self._each),
            "/test/Wait": Method(False, self._wait),
            "/test/Slow": Method(True, self._slow),
            "/test/Now": Method(False, self._echo, lambda stream: stream.respond_soon(b"now")),
        }
        if path not in methods:
            raise Unimplemented(f"unknown {path}")
        return methods[path]

    def run(self, stream: Stream) -> asyncio.Task[None]:
        self.running.append(stream)
        return asyncio.get_running_loop().create_task(stream.method.run(stream))

    def limit(self, stream: Stream, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        stream.deadline = loop.time() + timeout
        stream.timer = loop.call_later(timeout, stream.expire)

    async def _echo(self, stream: Stream) -> None:
        await stream.respond(bytes(stream.message))

    async def _each(self, stream: Stream) -> None:
        while (data := await stream.receive()) is not None:
            await stream.send(bytes(data))
        stream.finish(Code.OK)

    async def _slow(self, stream: Stream) -> None:
        """Takes a request each time it is told to go on."""
        while True:
            await self.go.wait()
            self.go.clear()
            data = await stream.receive()
            if data is None:
                stream.finish(Code.OK)
                return
            self.taken.append(bytes(data))

    async def _wait(self, stream: Stream) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(stream.id)
            raise


class Client:
    """h2 against a connection: `talk` carries the bytes both ways until nobody has anything to say."""

    def __init__(self, application: Application) -> None:
        self.wire = Wire()
        self.server = Connection(self.wire, application)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()

    async def talk(self) -> list[h2.events.Event]:
        """What the server said, as events of h2."""
        heard: list[h2.events.Event] = []
        for _ in range(50):
            if data := self.h2.data_to_send():
                self.server.receive(memoryview(bytearray(data)))
            await asyncio.sleep(0)
            if self.wire.sent:
                data, self.wire.sent = bytes(self.wire.sent), bytearray()
                heard += self.h2.receive_data(data)
        self.events += heard
        return heard

    def call(self, fields: list[tuple[str, str]], *data: bytes, end: bool = True) -> int:
        """Open a stream and send these on it."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, fields, end_stream=end and not data)
        for index, part in enumerate(data):
            self.h2.send_data(stream, part, end_stream=end and index == len(data) - 1)
        return stream

    def raw(self, data: bytes) -> None:
        """Say something that h2 would not say."""
        self.server.receive(memoryview(bytearray(data)))

    def received(self, stream: int) -> bytes:
        """The data of a stream until now."""
        return b"".join(e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream)

    def headers(self, stream: int) -> dict[str, str]:
        """All response headers and trailers of a stream until now."""
        kinds = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        found = [e for e in self.events if isinstance(e, kinds) and e.stream_id == stream]
        return {str(name): str(value) for event in found for name, value in event.headers}

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def application() -> Application:
    return Application()


@pytest.fixture
async def client(application: Application) -> AsyncIterator[Client]:
    client = Client(application)
    await client.talk()
    yield client
    client.server.lost()
    if client.server.tasks:
        await asyncio.wait(client.server.tasks)
