"""ttrpc as transcripts: bytes in, events out."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_api import ttrpc
from moorage_api.errors import Code, FailedPrecondition, InvalidArgument, MoorageError, NotFound, ResourceExhausted
from moorage_api.ttrpc import Client, DataReceived, Frame, FrameDecoder, FrameType, ProtocolError, Reply, Server

# A call of /x.S/M with payload b"hi" and a timeout of 2 s, as Go's client writes it.
REQUEST = bytes.fromhex("00000012000000010100") + b"\x0a\x03x.S\x12\x01M\x1a\x02hi\x20\x80\xa8\xd6\xb9\x07"
RESPONSE = bytes.fromhex("00000004000000010200") + b"\x12\x02ok"
NOT_FOUND = bytes.fromhex("00000008000000010200") + b"\x0a\x06\x08\x05\x12\x02no"


def only(events: object) -> object:
    (event,) = events  # type: ignore[misc]
    return event


def test_server_reads_a_request_and_answers() -> None:
    server = Server()
    event = only(server.receive(REQUEST))
    assert event == ttrpc.RequestReceived(1, "x.S", "M", b"hi", 2.0, ())
    assert server.pending == 1
    assert server.respond(1, b"ok") == RESPONSE
    assert server.pending == 0


def test_client_writes_a_request_and_reads_the_answer() -> None:
    client = Client()
    assert client.call("x.S", "M", b"hi", timeout=2.0) == (1, REQUEST)
    assert only(client.receive(RESPONSE)) == ttrpc.ResponseReceived(1, b"ok")
    assert client.call("x.S", "M", b"")[0] == 3


def test_an_error_crosses_with_code_and_message() -> None:
    server, client = Server(), Client()
    _, data = client.call("x.S", "M", b"")
    list(server.receive(data))
    assert server.fail(1, NotFound("no")) == NOT_FOUND
    event = only(client.receive(NOT_FOUND))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert isinstance(event.error, NotFound)
    assert event.error.message == "no"


def test_an_error_about_what_is_not_unicode_crosses() -> None:
    server, client = Server(), Client()
    _, data = client.call("x.S", "M", b"")
    list(server.receive(data))
    event = only(client.receive(server.fail(1, NotFound("no `\udcff`"))))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert event.error is not None
    assert event.error.message == r"no `\udcff`"


def test_an_unknown_code_gives_the_base_error() -> None:
    client = Client()
    client.call("x.S", "M", b"")
    event = only(client.receive(bytes.fromhex("00000004000000010200") + b"\x0a\x02\x08\x63"))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert type(event.error) is MoorageError


def test_metadata_and_no_timeout() -> None:
    server, client = Server(), Client()
    _, data = client.call("s", "m", b"", metadata={"containerd-namespace-ttrpc": "default"})
    event = only(server.receive(data))
    assert isinstance(event, ttrpc.RequestReceived)
    assert event.metadata == (("containerd-namespace-ttrpc", "default"),)
    assert event.timeout is None


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 2000), max_size=12))
def test_frames_survive_any_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(ttrpc.encode(i, FrameType.DATA, p, i) for i, p in enumerate(payloads))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = FrameDecoder()
    frames = [frame for a, b in pairwise(edges) for frame in decoder.feed(data[a:b])]
    assert frames == [Frame(i, FrameType.DATA, i, p) for i, p in enumerate(payloads)]
    assert decoder.idle


def test_an_oversized_request_fails_alone() -> None:
    server = Server()
    header = (ttrpc.MAX_MESSAGE + 1).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00"
    reply = only(server.receive(header))
    assert isinstance(reply, Reply)
    client = Client()
    client.call("x.S", "M", b"")
    event = only(client.receive(reply.data))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert isinstance(event.error, ResourceExhausted)
    for _ in range(4):
        assert list(server.receive(bytes(1 << 20))) == []
    following = only(server.receive(b"\0" + REQUEST[:7] + b"\x03" + REQUEST[8:]))
    assert isinstance(following, ttrpc.RequestReceived)
    assert following.stream == 3


def test_an_oversized_message_is_not_sent() -> None:
    client = Client()
    with pytest.raises(ResourceExhausted, match="longer than"):
        client.call("x.S", "M", bytes(ttrpc.MAX_MESSAGE))
    assert client.pending == 0
    server = Server()
    list(server.receive(REQUEST))
    client.call("x.S", "M", b"")
    event = only(client.receive(server.respond(1, bytes(ttrpc.MAX_MESSAGE))))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert isinstance(event.error, ResourceExhausted)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([ttrpc.encode(2, FrameType.REQUEST, b"")], "must be odd"),
        ([ttrpc.encode(3, FrameType.REQUEST, b""), ttrpc.encode(3, FrameType.REQUEST, b"")], "used before"),
        ([ttrpc.encode(3, FrameType.REQUEST, b""), ttrpc.encode(1, FrameType.REQUEST, b"")], "used before"),
        ([ttrpc.encode(1, FrameType.REQUEST, b"\xff")], "no ttrpc.Request"),
        ([ttrpc.encode_data(1, b"x")], "never opened"),
        ([ttrpc.encode(1, FrameType.REQUEST, b""), ttrpc.encode_data(1, b"x")], "takes none"),
    ],
)
def test_a_bad_frame_is_answered_and_the_connection_lives(frames: list[bytes], says: str) -> None:
    server = Server()
    events = list(server.receive(b"".join(frames)))
    reply = events[-1]
    assert isinstance(reply, Reply)
    assert says.encode() in reply.data
    assert isinstance(only(server.receive(REQUEST[:7] + b"\x0f" + REQUEST[8:])), ttrpc.RequestReceived)


@pytest.mark.parametrize("kind", [0, 2, 9])
def test_a_client_that_sends_what_it_may_not_ends_the_connection(kind: int) -> None:
    with pytest.raises(ProtocolError):
        list(Server().receive(bytes([0, 0, 0, 0, 0, 0, 0, 1, kind, 0])))


def test_a_server_that_sends_what_it_may_not_ends_the_connection() -> None:
    client = Client()
    client.call("s", "m", b"")
    with pytest.raises(ProtocolError):
        list(client.receive(ttrpc.encode(1, FrameType.REQUEST, b"")))
    with pytest.raises(ProtocolError):
        list(client.receive(ttrpc.encode(1, FrameType.RESPONSE, b"\xff")))


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    client = Client()
    stream, _ = client.call("s", "m", b"")
    client.forget(stream)
    assert list(client.receive(RESPONSE)) == []
    assert client.pending == 0


def test_a_stream_in_both_directions() -> None:
    server, client = Server(), Client()
    stream, opening = client.call("s", "m", b"", streaming=True)
    assert opening[9] == ttrpc.Flag.REMOTE_OPEN
    request = only(server.receive(opening))
    assert isinstance(request, ttrpc.RequestReceived)
    assert request.open
    assert only(server.receive(client.send(stream, b"one"))) == DataReceived(stream, b"one", ended=False)
    assert only(server.receive(client.send(stream, None, last=True))) == DataReceived(stream, None, ended=True)
    assert only(client.receive(server.send(stream, b"two", last=True))) == DataReceived(stream, b"two", ended=True)
    assert only(client.receive(server.respond(stream, b""))) == ttrpc.ResponseReceived(stream, b"")
    assert list(server.receive(ttrpc.encode_data(stream, b"late"))) == []


def test_data_for_an_ended_call_is_refused() -> None:
    server, client = Server(), Client()
    for side in (server, client):
        with pytest.raises(InvalidArgument):
            side.send(1, b"")


def test_an_oversized_stream_message_ends_the_call() -> None:
    server, client = Server(), Client()
    stream, opening = client.call("s", "m", b"", streaming=True)
    list(server.receive(opening))
    reply = only(server.receive((ttrpc.MAX_MESSAGE + 1).to_bytes(4, "big") + stream.to_bytes(4, "big") + b"\x03\x00"))
    assert isinstance(reply, Reply)
    event = only(client.receive(reply.data))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert event.error is not None
    assert event.error.code == Code.RESOURCE_EXHAUSTED
    assert server.pending == 0


def test_a_very_long_error_is_cut() -> None:
    server = Server()
    list(server.receive(REQUEST))
    assert len(server.fail(1, FailedPrecondition("x" * ttrpc.MAX_MESSAGE * 2))) < ttrpc.MAX_MESSAGE


def test_it_pulls_in_neither_asyncio_nor_grpc() -> None:
    code = "import sys, moorage_api.ttrpc; print([m for m in ('asyncio', 'grpc', 'ssl') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
