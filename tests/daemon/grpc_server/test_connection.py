"""A connection's protocol, spoken with a real client of HTTP/2 and with one that breaks its rules."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import h2.events
import h2.settings
import pytest

from moorage_api.errors import Code
from mooraged.grpc_server import frames
from mooraged.grpc_server.failures import ErrorCode

from .conftest import Application, Client, headers, message


async def test_a_call_is_one_write(client: Client) -> None:
    stream = client.call(headers(), message(b"hello"))
    writes: list[bytes] = []
    client.wire.write = writes.append  # type: ignore[method-assign]
    client.raw(client.h2.data_to_send())
    await asyncio.sleep(0)
    assert len(writes) == 1
    client.wire.sent += writes[0]
    await client.talk()
    assert client.received(stream) == message(b"hello")
    assert client.headers(stream) == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}


@pytest.mark.parametrize("ends", ["with the request", "after it", "in vain"])
async def test_an_answer_at_once(client: Client, application: Application, ends: str) -> None:
    """When the client has said all. While it does not read, the answer waits, and nobody with it."""
    client.wire.paused = ends == "in vain"
    stream = client.call(headers(path="/test/Now"), message(b"x"), end=ends != "after it")
    client.raw(client.h2.data_to_send())
    assert bool(client.server.streams) is (ends != "with the request")
    if ends == "after it":
        client.h2.end_stream(stream)
    client.wire.paused = False
    await client.talk()
    assert client.received(stream) == message(b"x" if ends == "after it" else b"now")
    assert client.headers(stream)["grpc-status"] == "0"
    assert len(application.running) == (ends == "after it")
    assert not client.of(h2.events.StreamReset)
    assert not client.server.streams


async def test_many_calls_and_the_same_headers(client: Client, application: Application) -> None:
    for number in range(20):
        stream = client.call([*headers(), ("n", str(number % 3))], message(b"%d" % number))
        await client.talk()
        assert client.received(stream) == message(b"%d" % number)
        assert application.running[-1].request.metadata["n"] == str(number % 3)
    assert not client.server.streams


async def test_bytes_one_by_one(client: Client) -> None:
    client.h2.send_headers(1, headers(path="/test/Each"))
    client.h2.send_data(1, message(b"a" * 300), pad_length=7)
    client.h2.send_data(1, message(b"b") + message(b"") + message(b"c")[:3])
    client.h2.send_data(1, message(b"c")[3:])
    client.h2.end_stream(1)
    for byte in client.h2.data_to_send():
        client.raw(bytes((byte,)))
    await client.talk()
    assert client.received(1) == message(b"a" * 300) + message(b"b") + message(b"") + message(b"c")
    assert client.headers(1)["grpc-status"] == "0"


async def test_a_large_answer_goes_as_the_windows_allow(client: Client) -> None:
    data = bytes(range(256)) * 800
    sent = message(data)
    stream = client.call(headers(), end=False)
    await client.talk()
    client.h2.send_data(stream, sent[:150_000])
    client.h2.send_data(stream, sent[150_000:], end_stream=True)
    await client.talk()
    assert client.received(stream) == sent[:65_535]
    assert "grpc-status" not in client.headers(stream)
    while "grpc-status" not in client.headers(stream):
        client.h2.increment_flow_control_window(30_000)
        client.h2.increment_flow_control_window(20_000, stream)
        assert await client.talk()
    assert client.received(stream) == sent


async def test_streams_share_the_window(client: Client) -> None:
    """None waits for the end of another that waits for its client."""
    first = client.call(headers(), message(b"x" * 200_000))
    second = client.call(headers(), message(b"y" * 200_000))
    await client.talk()
    while "grpc-status" not in client.headers(second):
        client.h2.increment_flow_control_window(50_000)
        client.h2.increment_flow_control_window(50_000, second)
        await client.talk()
    assert len(client.received(first)) <= 65535
    assert client.received(second) == message(b"y" * 200_000)


async def test_settings_change_the_windows_of_open_streams(client: Client) -> None:
    sent = message(b"x" * 70_000)
    stream = client.call(headers(), sent[:40_000], end=False)
    client.h2.send_data(stream, sent[40_000:60_000])
    await client.talk()
    client.h2.send_data(stream, sent[60_000:], end_stream=True)
    await client.talk()
    assert client.received(stream) == sent[:65_535]
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})  # 65,435 too many are sent by now
    await client.talk()
    late = client.call(headers(), message(b"z" * 1000))
    client.h2.increment_flow_control_window(50_000)
    await client.talk()
    assert client.received(late) == message(b"z" * 1000)[:100]
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 67_000})
    await client.talk()
    assert client.received(late) == message(b"z" * 1000)
    assert client.received(stream) == sent[:67_000]


async def test_a_client_that_does_not_read_is_not_written_to(client: Client) -> None:
    client.wire.paused = True
    streams = [client.call(headers(), message(b"x" * 2000)) for _ in range(5)]
    await client.talk()
    assert all(client.received(stream) == b"" for stream in streams)
    client.wire.paused = False
    client.server.sender.pump()
    await client.talk()
    assert all(client.received(stream) == message(b"x" * 2000) for stream in streams)


async def test_requests_are_read_as_fast_as_they_are_taken(client: Client, application: Application) -> None:
    stream = client.call(headers(path="/test/Slow"), end=False)
    await client.talk()
    part, sent = b"x" * 16_000, 0
    while client.h2.local_flow_control_window(stream) > len(message(part)):
        client.h2.send_data(stream, message(part))
        sent += 1
        await client.talk()
    assert sent * len(part) <= 1 << 20
    for _ in range(sent):
        application.go.set()
        await client.talk()
    assert len(application.taken) == sent
    assert client.h2.local_flow_control_window(stream) > 512 << 10


async def test_a_message_larger_than_the_window_arrives(client: Client, application: Application) -> None:
    application.max_recv = application.max_send = 4 << 20
    stream = client.call(headers(path="/test/Each"), end=False)
    await client.talk()
    left = message(b"x" * (3 << 20))
    while left:
        size = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size, len(left))
        assert size, "the client may send no more"
        client.h2.send_data(stream, left[:size])
        left = left[size:]
        await client.talk()
    assert len(client.received(stream)) == 65_535


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        (headers(path="/test/Absent"), Code.UNIMPLEMENTED, "unknown"),
        (headers(grpc_encoding="snappy"), Code.UNIMPLEMENTED, "snappy"),
        (headers(grpc_timeout="soon"), Code.INTERNAL, "grpc-timeout"),
        ([*headers(), *((f"h{n}", "x" * 9000) for n in range(8))], Code.RESOURCE_EXHAUSTED, "headers"),
    ],
)
async def test_calls_that_are_refused(
    client: Client, application: Application, fields: list[tuple[str, str]], status: Code, text: str
) -> None:
    stream = client.call(fields, message(b""))
    await client.talk()
    found = client.headers(stream)
    assert (found[":status"], found["grpc-status"]) == ("200", str(status.value))
    assert text in found["grpc-message"]
    assert not application.running
    stream = client.call(headers(), message(b"and the next"))
    await client.talk()
    assert client.received(stream) == message(b"and the next")


async def test_encodings_that_are_not_known_are_told_those_that_are(client: Client) -> None:
    stream = client.call(headers(grpc_encoding="snappy"), message(b""))
    await client.talk()
    assert client.headers(stream)["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize(("changes", "status"), [({"method": "GET"}, "405"), ({"content_type": "text/html"}, "415")])
async def test_what_is_no_call_of_grpc(client: Client, changes: dict[str, str], status: str) -> None:
    stream = client.call(headers(**changes), end=False)
    await client.talk()
    assert client.headers(stream) == {":status": status}
    assert [e.error_code for e in client.of(h2.events.StreamReset)] == [ErrorCode.NO_ERROR]


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"\0\x00\x10\x00\xff", Code.RESOURCE_EXHAUSTED, "Received message larger than max (1048831"),
        (b"\x01\0\0\0\x01x", Code.INTERNAL, "no encoding was named"),
        (b"\x07\0\0\0\x01x", Code.INTERNAL, "flags"),
        (message(b"abc")[:-1], Code.INTERNAL, "within a message"),
        (b"", Code.INTERNAL, "no request"),
        (message(b"a") + message(b"b"), Code.INTERNAL, "more than one"),
    ],
)
async def test_requests_that_are_wrong(client: Client, data: bytes, status: Code, text: str) -> None:
    stream = client.call(headers(), data)
    await client.talk()
    found = client.headers(stream)
    assert found["grpc-status"] == str(status.value)
    assert text in found["grpc-message"]
    assert not client.server.streams


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_requests(client: Client, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    stream = client.call(headers(grpc_encoding=encoding), message(pack(b"hello" * 100), compressed=1))
    bomb = client.call(headers(grpc_encoding=encoding), message(pack(bytes(2 << 20)), compressed=1))
    broken = client.call(headers(grpc_encoding=encoding), message(pack(b"hello")[:-3], compressed=1))
    nonsense = client.call(headers(grpc_encoding=encoding), message(b"hello", compressed=1))
    plain = client.call(headers(grpc_encoding=encoding), message(b"hello"))
    await client.talk()
    assert client.received(stream) == message(b"hello" * 100)
    assert client.headers(bomb)["grpc-status"] == str(Code.RESOURCE_EXHAUSTED.value)
    assert client.headers(broken)["grpc-status"] == str(Code.INTERNAL.value)
    assert client.headers(nonsense)["grpc-status"] == str(Code.INTERNAL.value)
    assert client.received(plain) == message(b"hello")


async def test_an_answer_that_is_too_large(client: Client, application: Application) -> None:
    application.max_send = 10
    stream = client.call(headers(), message(b"x" * 11))
    await client.talk()
    [task] = client.server.tasks or [application.running[0].task]
    assert task is not None
    assert "Sent message larger than max (11 vs. 10)" in str(task.exception())
    assert client.received(stream) == b""


async def test_an_early_end_of_a_half_open_call_asks_for_no_more(client: Client, application: Application) -> None:
    stream = client.call(headers(), message(b"x"), end=False)
    await client.talk()
    assert client.headers(stream)["grpc-status"] == "0"
    assert [e.error_code for e in client.of(h2.events.StreamReset)] == [ErrorCode.NO_ERROR]
    # What was under way meanwhile is ignored, and does not fill the connection's window.
    client.raw(frames.frame(frames.DATA, 0, stream, b"late") * 3)
    client.raw(frames.frame(frames.DATA, frames.END_STREAM, stream, b"late"))
    assert not client.wire.closed
    assert not client.wire.sent


async def test_a_reset_cancels_the_handler(client: Client, application: Application) -> None:
    stream = client.call(headers(path="/test/Wait"), message(b""))
    await client.talk()
    client.h2.reset_stream(stream, ErrorCode.CANCEL)
    await client.talk()
    assert application.cancelled == [stream]
    assert not client.server.streams
    assert not client.server.tasks


async def test_a_deadline_ends_the_call(client: Client, application: Application) -> None:
    stream = client.call(headers(path="/test/Wait", grpc_timeout="20m"), message(b""))
    await client.talk()
    assert client.headers(stream) == {}
    await asyncio.sleep(0.05)
    await client.talk()
    assert client.headers(stream)["grpc-status"] == str(Code.DEADLINE_EXCEEDED.value)
    assert application.cancelled == [stream]


async def test_a_deadline_ends_a_request_that_never_comes(client: Client, application: Application) -> None:
    stream = client.call(headers(grpc_timeout="1n"), message(b"abc")[:6], end=False)
    await client.talk()
    await asyncio.sleep(0.01)
    await client.talk()
    assert client.headers(stream)["grpc-status"] == str(Code.DEADLINE_EXCEEDED.value)
    assert not application.running


async def test_a_client_that_goes_cancels_all(client: Client, application: Application) -> None:
    streams = [client.call(headers(path="/test/Wait"), message(b"")) for _ in range(3)]
    await client.talk()
    client.server.lost()
    await asyncio.sleep(0)
    assert application.cancelled == streams


async def test_leaving_lets_calls_end_and_takes_no_more(client: Client, application: Application) -> None:
    stream = client.call(headers(path="/test/Each"), message(b"a"), end=False)
    await client.talk()
    client.events.clear()
    client.server.leave()
    client.raw(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream + 2, b"\x83\x86\x84"))
    client.raw(frames.frame(frames.DATA, frames.END_STREAM, stream, message(b"b")))
    for _ in range(5):
        await asyncio.sleep(0)
    found = [(kind, on) for kind, _, on, _ in frames.FrameReader(1 << 24).feed(memoryview(bytes(client.wire.sent)))]
    assert found == [(frames.GOAWAY, 0), (frames.DATA, stream), (frames.HEADERS, stream)]
    assert len(application.running) == 1


async def test_pings_are_answered(client: Client) -> None:
    client.h2.ping(b"12345678")
    await client.talk()
    assert [e.ping_data for e in client.of(h2.events.PingAckReceived)] == [b"12345678"]


async def test_trailers_of_a_request_end_it(client: Client) -> None:
    stream = client.call(headers(path="/test/Each"), message(b"a"), end=False)
    client.h2.send_headers(stream, [("x-checksum", "1")], end_stream=True)
    await client.talk()
    assert client.headers(stream)["grpc-status"] == "0"


async def test_messages_of_statuses_are_percent_encoded(client: Client) -> None:
    stream = client.call(headers(path="/test/Ä%\x7f"), message(b""))
    await client.talk()
    assert client.headers(stream)["grpc-message"] == "unknown /test/%C3%84%25%7F"
