"""Answers that threads send themselves: whole, once, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import h2.events
import h2.settings
import pytest

from moorage_api.errors import Code
from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ErrorCode
from mooraged.grpc_server.protocol import GrpcProtocol
from mooraged.grpc_server.stream import Method, Stream

from .conftest import Application, Client, headers, message

SMALL = b"small"


class Threaded(Application):
    """`/test/Thread`: the call waits, for a thread to answer it."""

    def find(self, path: str) -> Method:
        return Method(False, self._wait, self._thread) if path == "/test/Thread" else super().find(path)

    def _thread(self, stream: Stream) -> asyncio.Future[None]:
        self.running.append(stream)
        return asyncio.get_running_loop().create_future()


@pytest.fixture
def application() -> Threaded:
    return Threaded()


async def called(client: Client, application: Application) -> Stream:
    client.call(headers(path="/test/Thread"), message(b"x"))
    await client.talk()
    stream = application.running[-1]
    assert stream.task is not None
    # Not part of what is tested: the thread's call goes on, whatever becomes of the stream.
    asyncio.get_running_loop().call_later(0.3, stream.task.cancel)
    return stream


async def concluded(client: Client, stream: Stream) -> dict[str, str]:
    stream.conclude()
    assert stream.task is not None
    stream.task.cancel()
    await client.talk()
    assert not client.server.streams
    return client.headers(stream.id)


def end(client: Client, stream: Stream, how: str) -> None:
    """End the call otherwise than by its answer."""
    if how == "reset":
        client.raw(frames.reset(stream.id, ErrorCode.CANCEL))  # by a client that has read nothing yet
    elif how == "lost":
        client.server.lost()
    elif how == "finish":
        stream.finish(Code.NOT_FOUND, "gone")
    else:
        stream.expire()


async def test_an_answer(client: Client, application: Application) -> None:
    for _ in range(
        100
    ):  # of which each would cost the connection's window what it reserves, if that were not given back
        stream = await called(client, application)
        assert stream.reserve()
        assert await asyncio.to_thread(stream.respond_from_thread, SMALL)
        assert await concluded(client, stream) == {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-status": "0",
        }
        assert client.received(stream.id) == message(SMALL)


async def test_what_is_large_is_left_to_the_loop(client: Client, application: Application) -> None:
    stream = await called(client, application)
    assert stream.reserve()
    large = bytes(5000)
    assert not stream.respond_from_thread(large)
    assert stream.respond_at_once(large)
    await client.talk()
    assert client.received(stream.id) == message(large)
    assert client.headers(stream.id)["grpc-status"] == "0"


async def test_a_small_window_is_left_to_the_loop(client: Client, application: Application) -> None:
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    await client.talk()
    stream = await called(client, application)
    assert not stream.reserve()
    assert stream.respond_at_once(SMALL)
    await client.talk()
    assert client.received(stream.id) == message(SMALL)


async def test_windows_are_as_they_were(client: Client, application: Application) -> None:
    """What was reserved can be sent by others, however the call ended."""
    for end in ("thread", "loop", "deadline", "reset"):
        stream = await called(client, application)
        assert stream.reserve()
        if end == "thread":
            stream.respond_from_thread(SMALL)
            await concluded(client, stream)
        elif end == "loop":
            stream.respond_at_once(SMALL)
        elif end == "deadline":
            stream.expire()
        else:
            client.h2.reset_stream(stream.id)
        await client.talk()
    rest = client.h2.inbound_flow_control_window
    echo = client.call(headers(), message(bytes(rest - 5)))
    await client.talk()
    assert len(client.received(echo)) == rest


@pytest.mark.parametrize("first", ["deadline", "reset", "lost", "finish"])
async def test_a_call_that_has_ended_gets_no_answer(client: Client, application: Application, first: str) -> None:
    stream = await called(client, application)
    assert stream.reserve()
    end(client, stream, first)
    await client.talk()
    before = len(client.events)
    assert not await asyncio.to_thread(stream.respond_from_thread, SMALL)
    assert await client.talk() == []
    assert len(client.events) == before
    assert stream.closed


@pytest.mark.parametrize("second", ["deadline", "reset", "lost", "finish"])
async def test_a_call_that_has_its_answer_does_not_end_again(
    client: Client, application: Application, second: str
) -> None:
    """The loop hears of the answer only after what it takes for the end."""
    stream = await called(client, application)
    assert stream.reserve()
    assert stream.respond_from_thread(SMALL)
    end(client, stream, second)
    assert not stream.closed
    assert (await concluded(client, stream))["grpc-status"] == "0"
    assert not client.of(h2.events.StreamReset)


# On a real socket


class Ends:
    """A protocol, and the client's end of its connection."""

    def __init__(self, protocol: GrpcProtocol, client: socket.socket, fd: int) -> None:
        self.protocol = protocol
        self.client = client
        self.fd = fd

    def fill(self) -> int:
        """Write until the client's side takes no more; returns how much."""
        count = 0
        for size in (1 << 16, 1):
            with suppress(BlockingIOError):
                while True:
                    count += os.write(self.fd, bytes(size))
        return count

    def write(self, data: bytes) -> bool:
        return self.protocol.write_from_thread(data, lambda: True)

    async def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            found += await asyncio.get_running_loop().sock_recv(self.client, size - len(found))
        return bytes(found)


@pytest.fixture
async def ends(application: Application) -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    gone = asyncio.Event()
    buffer = memoryview(bytearray(1 << 16))
    fd = os.dup(ours.fileno())
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: GrpcProtocol(application, buffer, lambda _: gone.set()), ours
    )
    yield Ends(protocol, theirs, fd)
    theirs.close()
    protocol.abort()
    await gone.wait()
    os.close(fd)


async def test_the_rest_of_what_the_socket_does_not_take_comes_before_all_else(ends: Ends) -> None:
    filled = ends.fill()
    assert await asyncio.to_thread(ends.write, b"answer")
    assert not ends.write(b"no other before the rest is sent")
    ends.protocol.write(b" then this")
    assert not ends.write(b"nor before what waits with it")
    assert (await ends.read(filled + 16))[filled:] == b"answer then this"
    await asyncio.sleep(0.05)
    assert ends.write(b"and now")
    assert await ends.read(7) == b"and now"


async def test_the_rest_is_sent_though_nothing_follows(ends: Ends) -> None:
    filled = ends.fill()
    assert await asyncio.to_thread(ends.write, b"answer")
    assert (await ends.read(filled + 6))[filled:] == b"answer"


async def test_what_is_not_claimed_is_not_sent(ends: Ends) -> None:
    assert not ends.protocol.write_from_thread(b"answer", lambda: False)
    ends.protocol.write(b"other")
    assert await ends.read(5) == b"other"


async def test_nothing_is_written_to_a_connection_that_is_gone(ends: Ends) -> None:
    ends.protocol.abort()
    assert not ends.write(b"x")
    await asyncio.sleep(0.05)
    assert not ends.write(b"x")


async def test_a_client_that_goes_is_no_error(ends: Ends) -> None:
    ends.client.close()
    assert ends.write(b"x")  # nobody will miss it
    await asyncio.sleep(0.05)
    assert not ends.write(b"x")


async def test_everything_arrives_whole_and_once(ends: Ends) -> None:
    """Threads and the loop send as fast as they can, to a client that reads slowly."""
    record = struct.Struct(">II")
    threads, each = 3, 3000
    refused: list[tuple[int, int]] = []

    def send(thread: int) -> None:
        for number in range(each):
            data = record.pack(thread, number) + bytes(number % 1000)
            while not ends.write(data):
                refused.append((thread, number))
                threading.Event().wait(0.0005)

    async def loop() -> None:
        for number in range(each):
            ends.protocol.write(record.pack(threads, number) + bytes(number % 1000))
            if number % 100 == 0:
                await asyncio.sleep(0.001)

    async def read() -> list[tuple[int, int]]:
        found = []
        while len(found) < (threads + 1) * each:
            thread, number = record.unpack(await ends.read(record.size))
            assert await ends.read(number % 1000) == bytes(number % 1000)
            found.append((thread, number))
        return found

    found, *_ = await asyncio.wait_for(
        asyncio.gather(read(), loop(), *(asyncio.to_thread(send, thread) for thread in range(threads))), 60
    )
    assert refused, "they never were in each other's way"
    for thread in range(threads + 1):
        assert [number for sender, number in found if sender == thread] == list(range(each))
