"""SPDY as transcripts: bytes in, events out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api.streaming.spdy import events
from moorage_api.streaming.spdy.errors import ProtocolError, Reset
from moorage_api.streaming.spdy.headers import HEADERS_MAX, Compressor, Decompressor
from moorage_api.streaming.spdy.session import CONTROL_MAX, STREAMS_MAX, Session

# What crictl sent for `exec -i` with "hello" on its standard input, up to its end.
CRICTL = bytes.fromhex(
    "800300010000002a0000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a5a54945f04000000ffff"
    "800300010000001700000003000000000000c22e555c92929907000000ffff"
    "8003000100000019"
    "00000005000000000000c22ac5565c92925f5a02000000ffff"
    "800300010000001500000007000000000000c229975a5404000000ffff"
    "000000030000000668656c6c6f0a0000000301000000"
    "8003000300000008000000050000000580030003000000080000000700000005"
    "800300030000000800000001000000058003000700000008"
    "0000000000000000"
)
EVENTS = [
    events.StreamOpened(1, {"streamtype": "error"}),
    events.StreamOpened(3, {"streamtype": "stdin"}),
    events.StreamOpened(5, {"streamtype": "stdout"}),
    events.StreamOpened(7, {"streamtype": "stderr"}),
    events.DataReceived(3, b"hello\n"),
    events.StreamEnded(3),
    events.StreamReset(5, Reset.CANCEL),
    events.StreamReset(7, Reset.CANCEL),
    events.StreamReset(1, Reset.CANCEL),
    events.GoneAway(0, 0),
]


def _joined(found: list[events.Event]) -> list[events.Event]:
    """Data that came in pieces, as one."""
    joined: list[events.Event] = []
    for event in found:
        last = joined[-1] if joined else None
        if (
            isinstance(event, events.DataReceived)
            and isinstance(last, events.DataReceived)
            and last.stream == event.stream
        ):
            joined[-1] = events.DataReceived(event.stream, last.data + event.data)
        else:
            joined.append(event)
    return joined


@given(st.integers(1, 64))
def test_what_crictl_sends(size: int) -> None:
    session = Session()
    found: list[events.Event] = []
    for start in range(0, len(CRICTL), size):
        found += session.receive(CRICTL[start : start + size])
    assert _joined(found) == EVENTS
    assert session.take() == b""


def test_a_stream_in_both_directions() -> None:
    client, server = Session(client=True), Session()
    stream = client.open({"streamType": "data", "Port": "80"})
    client.send(stream, b"request", end=True)
    assert list(server.receive(client.take())) == [
        events.StreamOpened(1, {"streamtype": "data", "port": "80"}),
        events.DataReceived(1, b"request"),
        events.StreamEnded(1),
    ]
    server.accept(stream)
    server.send(stream, b"answer")
    server.send(stream, b"", end=True)
    assert list(client.receive(server.take())) == [
        events.StreamAccepted(1, {}),
        events.DataReceived(1, b"answer"),
        events.StreamEnded(1),
    ]
    # Both directions have ended: nothing more is sent, and what comes is dropped.
    server.send(stream, b"late")
    assert server.take() == b""
    assert list(server.receive(struct.pack(">II", 1, 4) + b"late")) == []


def test_what_the_server_sends() -> None:
    """The bytes themselves."""
    server = Session()
    list(server.receive(CRICTL[:51]))
    server.send(1, b"ab", end=True)
    server.reset(1, Reset.CANCEL)
    server.go_away()
    assert server.take() == bytes.fromhex("00000001 01000002 6162 80030003 00000008 00000001 00000005") + bytes.fromhex(
        "80030007 00000008 00000001 00000000"
    )


def test_data_is_told_before_its_frame_is_complete() -> None:
    client, server = Session(client=True), Session()
    stream = client.open({})
    list(server.receive(client.take()))
    client.send(stream, b"x" * 1000, end=True)
    frame = client.take()
    assert list(server.receive(frame[:508])) == [events.DataReceived(1, b"x" * 500)]
    assert list(server.receive(frame[508:])) == [events.DataReceived(1, b"x" * 500), events.StreamEnded(1)]


def test_ping() -> None:
    client, server = Session(client=True), Session()
    assert (client.ping(), server.ping(), server.ping()) == (1, 2, 4)
    ours = server.take()
    assert list(server.receive(client.take())) == []
    assert list(client.receive(server.take())) == [events.PingAnswered(1)]
    assert list(client.receive(ours)) == []
    assert list(server.receive(client.take())) == [events.PingAnswered(2), events.PingAnswered(4)]


def test_settings_and_windows_are_told() -> None:
    frame = bytes.fromhex("80030004 0000000c 00000001 00000007 00010000 80030009 00000008 00000003 00000400")
    assert list(Session().receive(frame)) == [events.SettingsReceived({7: 65536}), events.WindowOpened(3, 1024)]


def test_frames_of_unknown_types_are_skipped() -> None:
    assert list(Session().receive(bytes.fromhex("8003000b 00000004 00000000") + CRICTL)) == EVENTS


def test_more_headers() -> None:
    client, server = Session(client=True), Session()
    client.open({"a": "b"}, end=True)
    opened = client.take()
    assert list(server.receive(opened)) == [events.StreamOpened(1, {"a": "b"}, ended=True)]
    block = client._compressor.block({"c": "d"})
    frame = struct.pack(">III", 0x80030008, len(block) + 4, 1) + block
    assert list(server.receive(frame)) == [events.HeadersReceived(1, {"c": "d"})]


def test_too_many_streams_are_refused() -> None:
    client, server = Session(client=True), Session()
    for _ in range(STREAMS_MAX + 1):
        client.open({})
    opened = list(server.receive(client.take()))
    assert len(opened) == STREAMS_MAX
    assert list(client.receive(server.take())) == [events.StreamReset(2 * STREAMS_MAX + 1, Reset.REFUSED_STREAM)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("80020001 0000000a 00000001000000000000", "SPDY version 2"),
        ("80030001 00ffffff", "control frame of 16777215 bytes"),
        ("80030001 00000004 00000001", "SYN_STREAM is too short"),
        ("80030001 0000000e 00000001000000000000 ffffffff", "header block"),
        ("80030003 00000004 00000001", "RST_STREAM is too short"),
        ("80030004 00000008 00000002 00000000", "SETTINGS is too short"),
    ],
)
def test_what_cannot_go_on(frame: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        list(Session().receive(bytes.fromhex(frame)))


def test_stream_ids_only_grow() -> None:
    client = Session(client=True)
    client.open({})
    first = client.take()
    server = Session()
    list(server.receive(first))
    block = client._compressor.block({})
    with pytest.raises(ProtocolError, match="stream 1 after stream 1"):
        list(server.receive(struct.pack(">IIIIH", 0x80030001, len(block) + 10, 1, 0, 0) + block))


def test_a_header_bomb() -> None:
    block = Compressor().block({"a": "x" * (HEADERS_MAX + 1)})
    assert len(block) < CONTROL_MAX
    with pytest.raises(ProtocolError, match="header block of more than"):
        Decompressor().headers(block)


@given(st.lists(st.dictionaries(st.text(max_size=9).map(str.lower), st.text(max_size=99), max_size=5), max_size=5))
def test_header_blocks(blocks: list[dict[str, str]]) -> None:
    compressor, decompressor = Compressor(), Decompressor()
    for headers in blocks:
        lowered = {name.lower(): value for name, value in headers.items()}
        assert decompressor.headers(compressor.block(headers)) == lowered


@given(st.binary(max_size=300))
def test_noise_never_breaks_it(noise: bytes) -> None:
    try:
        list(Session().receive(noise))
    except ProtocolError:
        return
