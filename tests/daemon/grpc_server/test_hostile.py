"""Peers that break the rules, or are nothing of the kind: a clear end, and never more memory than what is promised."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ErrorCode
from mooraged.grpc_server.frames import frame

from .conftest import HEADERS, Application, Client, headers, message

OPEN = frames.PREFACE + frame(frames.SETTINGS, 0, 0)
BOTH = frames.END_HEADERS | frames.END_STREAM


def block(*fields: tuple[str, str]) -> bytes:
    """A header block that refers to no dynamic table."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


CALL = block(*HEADERS)


class Peer:
    """Sends bytes, and reads what the last words of the server were."""

    def __init__(self, application: Application) -> None:
        self._client = Client(application)
        self.server, self.wire = self._client.server, self._client.wire

    def say(self, data: bytes) -> None:
        for begin in range(0, len(data), 65_536):
            self.server.receive(memoryview(bytearray(data[begin : begin + 65_536])))

    def heard(self) -> list[tuple[int, int, int, bytes]]:
        reader = frames.FrameReader(1 << 24)
        return [(kind, flags, stream, bytes(p)) for kind, flags, stream, p in reader.feed(memoryview(self.wire.sent))]

    def goaway(self) -> ErrorCode | None:
        """The code with which the server has closed."""
        codes = [struct.unpack(">I", p[4:8])[0] for kind, _, _, p in self.heard() if kind == frames.GOAWAY]
        assert self.wire.closed == bool(codes)
        return ErrorCode(codes[-1]) if codes else None

    def resets(self) -> list[tuple[int, ErrorCode]]:
        found = [(stream, p) for kind, _, stream, p in self.heard() if kind == frames.RST_STREAM]
        return [(stream, ErrorCode(int.from_bytes(p, "big"))) for stream, p in found]


@pytest.fixture
async def peer(application: Application) -> Any:
    peer = Peer(application)
    yield peer
    peer.server.lost()
    if peer.server.tasks:
        await asyncio.wait(peer.server.tasks)


def update(stream: int, increment: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def setting(key: int, value: int) -> bytes:
    return frames.settings({key: value})


P, FC, SIZE = ErrorCode.PROTOCOL_ERROR, ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.FRAME_SIZE_ERROR
CALM, COMPRESSION, CLOSED = ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR, ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.PREFACE + frame(frames.PING, 0, 0, bytes(8)), P),
        (OPEN + frame(frames.HEADERS, BOTH, 0, CALL), P),
        (OPEN + frame(frames.HEADERS, BOTH, 2, CALL), P),
        (OPEN + frame(frames.HEADERS, BOTH, 3, CALL) + frame(frames.HEADERS, BOTH, 1, CALL), P),
        (OPEN + frame(frames.HEADERS, BOTH | frames.PADDED, 1, b"\xff" + CALL), P),
        (OPEN + frame(frames.HEADERS, BOTH | frames.PRIORITISED, 1, b"x"), SIZE),
        (OPEN + frame(frames.HEADERS, BOTH, 1, b"\xff\xff\xff"), COMPRESSION),
        (OPEN + frame(frames.HEADERS, BOTH, 1, b"\x3f\xe2\x1f" + CALL), COMPRESSION),  # a table of 4097 bytes
        (OPEN + frame(frames.HEADERS, BOTH, 1, CALL + bytes(70_000)), CALM),
        (OPEN + frame(frames.HEADERS, 0, 1, CALL) + frame(frames.PING, 0, 0, bytes(8)), P),
        (OPEN + frame(frames.HEADERS, 0, 1, CALL) + frame(frames.CONTINUATION, 0, 3), P),
        (OPEN + frame(frames.HEADERS, 0, 1, CALL) + frame(frames.CONTINUATION, 0, 1) * 65, CALM),
        (OPEN + frame(frames.HEADERS, 0, 1, CALL) + frame(frames.CONTINUATION, 0, 1, bytes(16_000)) * 5, CALM),
        (OPEN + frame(frames.CONTINUATION, frames.END_HEADERS, 1, CALL), P),
        (OPEN + frame(frames.DATA, 0, 1, b"x"), P),
        (OPEN + frame(frames.DATA, 0, 0, b"x"), P),
        (OPEN + frame(frames.RST_STREAM, 0, 1, bytes(4)), P),
        (OPEN + frame(frames.RST_STREAM, 0, 1, bytes(3)), SIZE),
        (OPEN + update(1, 1), P),
        (OPEN + update(0, 0), P),
        (OPEN + update(0, (1 << 31) - 1), FC),
        (OPEN + frame(frames.WINDOW_UPDATE, 0, 0, b""), SIZE),
        (OPEN + frame(frames.SETTINGS, 0, 1), P),
        (OPEN + frame(frames.SETTINGS, 0, 0, bytes(5)), SIZE),
        (OPEN + frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), SIZE),
        (OPEN + setting(2, 2), P),
        (OPEN + setting(4, 1 << 31), FC),
        (OPEN + setting(5, 100), P),
        (OPEN + frame(frames.SETTINGS, 0, 0, bytes(6) * 101), CALM),
        (OPEN + frame(frames.PUSH_PROMISE, 0, 1, bytes(4)), P),
        (OPEN + frame(frames.PING, 0, 1, bytes(8)), P),
        (OPEN + frame(frames.PING, 0, 0, bytes(7)), SIZE),
        (OPEN + frame(frames.GOAWAY, 0, 1, bytes(8)), P),
        (OPEN + frame(frames.PRIORITY, 0, 0, bytes(5)), P),
        (OPEN + frames.head((1 << 20) + 1, frames.DATA, 0, 1), SIZE),
        (b"nothing of the kind, nor of another", P),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", P),
    ],
)
async def test_what_ends_a_connection(peer: Peer, data: bytes, code: ErrorCode) -> None:
    peer.say(data)
    assert peer.goaway() is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(frames.HEADERS, BOTH, 1, block((":method", "POST"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, ("Upper", "x"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, (":path", "/x"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, (":odd", "/x"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, ("connection", "close"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS[:4], ("te", "gzip"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, ("x", "a\nb"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, ("content-length", "-1"))), P),
        (frame(frames.HEADERS, BOTH, 1, block(*HEADERS, ("content-length", "7"))), P),
        (frame(frames.HEADERS, 4, 1, CALL) + update(1, 0), P),
        (frame(frames.HEADERS, 4, 1, CALL) + update(1, (1 << 31) - 1), FC),
        (frame(frames.HEADERS, 4, 1, CALL) + frame(frames.PRIORITY, 0, 1, bytes(4)), SIZE),
        (frame(frames.HEADERS, 4, 1, CALL) + frame(frames.HEADERS, 4, 1, block(("x", "y"))), P),
    ],
)
async def test_what_ends_a_stream_only(peer: Peer, data: bytes, code: ErrorCode) -> None:
    peer.say(OPEN + data)
    assert peer.goaway() is None
    assert peer.resets() == [(1, code)]
    peer.say(frame(frames.HEADERS, frames.END_HEADERS, 3, CALL) + frame(frames.DATA, 1, 3, message(b"still there")))
    await asyncio.sleep(0)
    assert (frames.DATA, 0, 3, message(b"still there")) in peer.heard()


async def test_data_beyond_the_windows(peer: Peer) -> None:
    slow = block(*headers(path="/test/Slow"))
    peer.say(OPEN + frame(frames.HEADERS, frames.END_HEADERS, 1, slow))
    part = frame(frames.DATA, 0, 1, message(bytes(65_531)))
    peer.say(part * 16)
    assert not peer.resets()
    peer.say(part)
    assert peer.resets() == [(1, FC)]
    peer.say(part * 200)  # a stream that is reset is ignored, and its data is given back to the connection
    assert peer.goaway() is None


async def test_frames_on_streams_that_have_ended(peer: Peer) -> None:
    peer.say(OPEN + frame(frames.HEADERS, frames.END_HEADERS, 1, CALL) + frame(frames.DATA, 1, 1, message(b"")))
    await asyncio.sleep(0)
    peer.say(update(1, 10) + frame(frames.RST_STREAM, 0, 1, bytes(4)) + frame(frames.PRIORITY, 0, 1, bytes(5)))
    assert not peer.resets()
    peer.say(frame(frames.DATA, 0, 1, b"x"))
    assert peer.resets() == [(1, CLOSED)]
    peer.say(frame(frames.HEADERS, BOTH, 3, block(*headers(path="/absent"))))
    peer.say(frame(frames.HEADERS, BOTH, 3, block(("x", "y"))))
    assert peer.goaway() is CLOSED


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PUT /a HTTP/1.0\r\n\r\n"])
async def test_http_1_is_told_so(peer: Peer, line: bytes) -> None:
    for byte in line:
        peer.say(bytes((byte,)))
    assert peer.wire.sent.startswith(b"HTTP/1.1 426 ")
    assert peer.wire.closed


@pytest.mark.parametrize(
    "flood",
    [
        frame(frames.PING, 0, 0, bytes(8)),
        frame(frames.SETTINGS, 0, 0),
        frame(frames.PRIORITY, 0, 9, bytes(5)),
        frame(99, 0, 0),
        frame(frames.GOAWAY, 0, 0, bytes(8)),
    ],
)
async def test_floods_end_the_connection(peer: Peer, flood: bytes) -> None:
    peer.say(OPEN + flood * 15_000)
    assert peer.goaway() is CALM
    assert len(peer.wire.sent) < 1 << 20


async def test_a_flood_of_empty_data(peer: Peer) -> None:
    peer.say(OPEN + frame(frames.HEADERS, frames.END_HEADERS, 1, CALL) + frame(frames.DATA, 0, 1) * 15_000)
    assert peer.goaway() is CALM


async def test_rapid_resets(peer: Peer, application: Application) -> None:
    wait = block(*headers(path="/test/Wait"))
    opened = 0
    while peer.goaway() is None and opened < 30_000:
        stream = 2 * opened + 1
        peer.say((b"" if opened else OPEN) + frame(frames.HEADERS, frames.END_HEADERS, stream, wait))
        peer.say(frame(frames.DATA, 1, stream, message(b"")) + frame(frames.RST_STREAM, 0, stream, bytes(4)))
        opened += 1
        if not opened % 1000:
            await asyncio.sleep(0)
    assert peer.goaway() is CALM
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not peer.server.tasks


async def test_work_pays_for_pings(peer: Peer) -> None:
    """Clients that measure the way ping with each batch of data."""
    peer.say(OPEN + update(0, 1 << 30))
    for number in range(3000):
        stream = 2 * number + 1
        peer.say(frame(frames.HEADERS, frames.END_HEADERS, stream, CALL) + frame(frames.DATA, 1, stream, message(b"x")))
        peer.say(frame(frames.PING, 0, 0, bytes(8)) * 10)
        await asyncio.sleep(0)
        peer.wire.sent.clear()
    assert not peer.wire.closed


async def test_a_bomb_of_headers(peer: Peer) -> None:
    """4 KiB in the dynamic table, named again and again."""
    encoder = hpack.Encoder()
    first = encoder.encode([*HEADERS, ("big", "x" * 3800)], huffman=False)
    again = encoder.encode([("big", "x" * 3800)])
    assert len(again) == 1
    peer.say(OPEN + frame(frames.HEADERS, BOTH, 1, first) + frame(frames.HEADERS, BOTH, 3, again * 60_000))
    assert peer.goaway() is CALM


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 3, 5, 2, 7]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [CALL, block(*headers(path="/test/Each")), message(b"abc"), message(b"abc")[:6], b"\xbe", bytes(8)]
        ),
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(FRAMES, max_size=30), tail=st.binary(max_size=30), cut=st.integers(1, 200))
async def test_any_bytes(parts: list[bytes], tail: bytes, cut: int) -> None:
    """Nothing is raised, whatever comes in whatever pieces, and what is answered is frames."""
    peer = Peer(Application())
    data = OPEN + b"".join(parts) + tail
    for begin in range(0, len(data), cut):
        peer.server.receive(memoryview(bytearray(data[begin : begin + cut])))
        if not begin % 5:
            await asyncio.sleep(0)
    peer.heard()
    peer.goaway()
    peer.server.lost()
    if peer.server.tasks:
        await asyncio.wait(peer.server.tasks)
    assert not peer.server.streams
    assert (peer.server._queued, peer.server._partial) == (0, 0)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=100))
async def test_any_beginning(data: bytes) -> None:
    peer = Peer(Application())
    peer.server.receive(memoryview(bytearray(data)))
    assert len(peer.wire.sent) < 1000
