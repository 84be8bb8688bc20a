"""The streaming server with jobs of the test's own: requests, tokens, both transports, limits."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest

from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from moorage_cri.config import Config, KeyPair
from moorage_cri.streaming import tokens
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.jobs import CommandJob, PortForwardJob
from moorage_cri.streaming.remotecommand import RemoteStreams, Wanted, Writer, sizes
from moorage_cri.streaming.server import StreamServer
from moorage_cri.streaming.tokens import Tokens
from support.streaming import PORT_FORWARD, V4, Channels, Command, Refused, spdy, tunnel, websocket

ALL = Wanted(stdin=True, stdout=True, stderr=True, tty=False)
Run = Callable[[RemoteStreams], Awaitable[int]]


async def echo(streams: RemoteStreams) -> int:
    """Both outputs get the input; the exit code is the number of bytes."""
    assert streams.stdin is not None
    count = 0
    while data := await streams.stdin.get():
        count += len(data)
        for output in (streams.stdout, streams.stderr):
            if output is not None:
                await output.write(data)
    return count


async def echo_port(port: int, source: Inbox, target: Writer) -> None:
    """A port that answers with its number and what it got; 13 is closed."""
    if port == 13:
        raise Unavailable("port 13: connection refused")
    await target.write(b"%d:" % port)
    while data := await source.get():
        await target.write(data)


@asynccontextmanager
async def serving(**config: object) -> AsyncIterator[StreamServer]:
    server = StreamServer(msgspec.convert(config, Config))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def server() -> AsyncIterator[StreamServer]:
    async with serving() as running:
        yield running


def grant(server: StreamServer, run: Run = echo, wanted: Wanted = ALL) -> str:
    return server.grant(CommandJob("exec", wanted, run))


async def refusal(url: str, *protocols: str, headers: dict[str, str] | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        async with spdy(url, *protocols, headers=headers):
            pass
    return caught.value


@pytest.mark.parametrize("protocol", [V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
async def test_a_command_over_spdy(server: StreamServer, protocol: str) -> None:
    async with spdy(grant(server), "v99.channel.k8s.io", protocol) as connection:
        assert connection.protocol == protocol
        command = await Command.open(connection, "stdin", "stdout", "stderr")
        await command.send("stdin", b"hello")
        await command.until("stdout", b"hello")
        await command.send("stdin", b"!!", end=True)
        await connection.receive(lambda: command.streams["error"] in connection.ended)
        assert connection.accepted == {1, 3, 5, 7}
        assert command.output("stdout") == command.output("stderr") == b"hello!!"
        assert {command.streams["stdout"], command.streams["stderr"]} <= connection.ended
        if protocol == V4:
            assert json.loads(command.output("error"))["details"]["causes"][0]["message"] == "7"
        else:
            assert b"7" in command.output("error")


@pytest.mark.parametrize("version", ["", "v1.", "v2.", "v3.", "v4.", "v5."])
async def test_a_command_in_channels(server: StreamServer, version: str) -> None:
    protocol = f"{version}channel.k8s.io"
    done = asyncio.Event()

    async def run(streams: RemoteStreams) -> int:
        assert streams.stdin is not None
        assert streams.stdout is not None
        if version != "v5.":
            await streams.stdout.write(await streams.stdin.get())
            return 3
        code = await echo(streams)
        done.set()
        return code

    async with websocket(grant(server, run), [protocol]) as socket:
        assert socket.protocol == protocol
        channels = Channels(socket)
        await channels.receive(lambda: 1 in channels.data)
        assert channels.data == {1: b""}
        await channels.send(0, b"abc")
        await channels.receive(lambda: channels.data[1] == b"abc")
        if version == "v5.":
            assert not done.is_set()
            await socket.send_bytes(b"\xff\x00")
        await channels.receive()
        assert socket.close_code == 1000
        status = channels.data[3]
        if version in ("v4.", "v5."):
            assert json.loads(status)["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        else:
            assert b"3" in status


async def test_base64_channels(server: StreamServer) -> None:
    async def run(streams: RemoteStreams) -> int:
        assert streams.stdin is not None
        assert streams.stdout is not None
        await streams.stdout.write(await streams.stdin.get())
        return 0

    async with websocket(grant(server, run), ["v4.base64.channel.k8s.io"]) as socket:
        assert await socket.receive_str() == "1"
        await socket.send_str("0" + base64.b64encode(b"\x00\xff").decode())
        assert await socket.receive_str() == "1" + base64.b64encode(b"\x00\xff").decode()
        answer = await socket.receive_str()
        assert (answer[0], json.loads(base64.b64decode(answer[1:]))["status"]) == ("3", "Success")


@pytest.mark.parametrize("protocol", [V4, "v3.channel.k8s.io"])
async def test_sizes_of_a_terminal(server: StreamServer, protocol: str) -> None:
    async def run(streams: RemoteStreams) -> int:
        assert streams.resize is not None
        async for width, height in sizes(streams.resize):
            return width * 1000 + height
        return 0

    async with spdy(grant(server, run, Wanted(False, True, False, True)), protocol) as connection:
        command = await Command.open(connection, "stdout", "resize")
        await command.send("resize", b'{"Width":80,"Height":24}')
        await connection.receive(lambda: command.streams["error"] in connection.ended)
        assert b"80024" in command.output("error")


async def test_a_failure_is_told_in_the_status(server: StreamServer) -> None:
    async def run(_: RemoteStreams) -> int:
        raise Unavailable("the shim is gone")

    async with spdy(grant(server, run, Wanted(False, True, False, False)), V4) as connection:
        status = await (await Command.open(connection, "stdout")).status()
        assert (status["status"], status["reason"]) == ("Failure", "InternalError")
        assert "the shim is gone" in status["message"]


async def test_a_token_is_for_one_use(server: StreamServer) -> None:
    url = grant(server)
    async with spdy(url, V4):
        pass
    assert (await refusal(url, V4)).status == 404
    assert (await refusal(url.rpartition("/")[0] + "/nothing", V4)).status == 404
    other = grant(server)
    assert (await refusal(other.replace("/exec/", "/attach/"), V4)).status == 404
    # It was shown at the wrong door, and is spent.
    assert (await refusal(other, V4)).status == 404


async def test_tokens_expire_and_are_few() -> None:
    store: Tokens[int] = Tokens(lifetime=0.05)
    token = store.issue(1)
    assert len(base64.urlsafe_b64decode(token + "==")) == 16
    assert store.redeem(store.issue(2)) == 2
    await asyncio.sleep(0.1)
    with pytest.raises(NotFound):
        store.redeem(token)
    for number in range(tokens.OUTSTANDING_MAX):
        store._lifetime = 60
        store.issue(number)
    with pytest.raises(ResourceExhausted):
        store.issue(0)


async def test_requests_that_are_refused(server: StreamServer) -> None:
    assert (await refusal(grant(server))).status == 400
    assert (await refusal(grant(server), V4, headers={"Upgrade": "h2c"})).status == 400
    refused = await refusal(grant(server), "v99.channel.k8s.io")
    assert refused.status == 403
    assert f"X-Accepted-Stream-Protocol-Versions: {V4}".lower() in refused.answer.lower()
    async with aiohttp.ClientSession() as session, session.delete(grant(server)) as answer:
        assert answer.status == 405
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with websocket(grant(server), ["chat"]):
            pass
    assert caught.value.status == 400


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\n\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, b""])
async def test_noise_is_hung_up_on(server: StreamServer, noise: bytes) -> None:
    host, _, port = grant(server).split("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(noise)
    writer.write_eof()
    with suppress(ConnectionResetError):
        assert not (await reader.read()).startswith(b"HTTP/1.1 101")
    writer.close()


async def test_a_client_that_breaks_the_protocol_ends_its_command(server: StreamServer) -> None:
    ended = asyncio.Event()

    async def run(_: RemoteStreams) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 0

    async with spdy(grant(server, run, Wanted(False, True, False, False)), V4) as connection:
        await Command.open(connection, "stdout")
        await connection._write(bytes.fromhex("8002000100000000"))
        await connection.receive(lambda: False)
        assert connection.closed
    async with asyncio.timeout(5):
        await ended.wait()


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_client_that_goes_ends_its_command(server: StreamServer, transport: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def run(streams: RemoteStreams) -> int:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 0

    url = grant(server, run)
    async with asyncio.timeout(10):
        if transport == "spdy":
            async with spdy(url, V4) as connection:
                await Command.open(connection, "stdin", "stdout", "stderr")
                await started.wait()
        else:
            async with websocket(url, [V4]):
                await started.wait()
        await ended.wait()


async def test_input_that_nobody_takes_is_bounded_and_a_client_that_goes_is_noticed(server: StreamServer) -> None:
    ended = asyncio.Event()

    async def run(streams: RemoteStreams) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 0

    sent = 0

    async def send_much(command: Command) -> None:
        nonlocal sent
        while True:
            await command.send("stdin", bytes(1 << 16))
            sent += 1 << 16

    async with asyncio.timeout(20):
        async with spdy(grant(server, run, Wanted(True, False, False, False)), V4) as connection:
            command = await Command.open(connection, "stdin")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send_much(command), 1)
            connection.abort()
        await ended.wait()
    # What the kernel holds for two sockets on loopback is some megabytes; what the server holds is little.
    assert sent < 32 << 20


async def test_output_that_nobody_takes_holds_the_command_up(server: StreamServer) -> None:
    written = 0

    async def run(streams: RemoteStreams) -> int:
        nonlocal written
        assert streams.stdout is not None
        for _ in range(64):
            await streams.stdout.write(bytes(1 << 20))
            written += 1
        return 0

    async with spdy(grant(server, run, Wanted(False, True, False, False)), V4) as connection:
        command = await Command.open(connection, "stdout")
        await asyncio.sleep(1)
        assert written < 32
        status = await command.status()
        assert status["status"] == "Success"
        assert len(command.output("stdout")) == 64 << 20


async def test_streams_that_never_come() -> None:
    async with serving(stream_creation_timeout=0.2) as server, spdy(grant(server), V4) as connection:
        await Command.open(connection, "stdin")
        await connection.receive(lambda: False)
        assert connection.closed


async def test_a_stream_that_was_not_asked_for(server: StreamServer) -> None:
    async with spdy(grant(server, echo, Wanted(True, True, False, False)), V4) as connection:
        command = await Command.open(connection, "resize", "stdin", "stdout")
        await command.send("stdin", b"", end=True)
        assert (await command.status())["status"] == "Success"
        assert connection.reset == {command.streams["resize"]}


async def test_an_idle_connection_is_closed() -> None:
    ended = asyncio.Event()

    async def run(_: RemoteStreams) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 0

    async with serving(stream_idle_timeout=0.3) as server:
        async with spdy(grant(server, run, Wanted(False, True, False, False)), V4) as connection:
            await Command.open(connection, "stdout")
            for _ in range(4):
                await asyncio.sleep(0.15)
                ping = connection.session.ping()
                await connection.flush()
                await connection.receive(lambda ping=ping: ping in connection.pings)  # type: ignore[misc]
            assert not ended.is_set()
            await connection.receive(lambda: False)
            assert connection.closed
        assert ended.is_set()


async def test_stopping_ends_what_is_going_on() -> None:
    async with serving() as server, spdy(grant(server), V4) as connection:
        await Command.open(connection, "stdin", "stdout", "stderr")
        await server.stop()
        await connection.receive(lambda: False)
        assert connection.closed


def forwarding(server: StreamServer, *ports: int) -> str:
    return server.grant(PortForwardJob(ports, echo_port))


@pytest.mark.parametrize("tunnelled", [False, True])
async def test_ports_over_spdy(server: StreamServer, tunnelled: bool) -> None:
    if tunnelled:
        async with websocket(forwarding(server), [f"SPDY/3.1+{PORT_FORWARD}"]) as socket:
            assert socket.protocol == f"SPDY/3.1+{PORT_FORWARD}"
            await _use_ports(await tunnel(socket))
    else:
        async with spdy(forwarding(server), PORT_FORWARD) as connection:
            await _use_ports(connection)


async def _use_ports(connection: object) -> None:
    from support.streaming import Spdy

    assert isinstance(connection, Spdy)
    pairs = []
    for number, port in enumerate((80, 443, 13, 99999)):
        headers = {"port": str(port), "requestID": str(number)}
        error = await connection.open({**headers, "streamType": "error"}, end=True)
        pairs.append((error, await connection.open({**headers, "streamType": "data"})))
    for error, data in pairs[:2]:
        await connection.send(data, b"x" * 100_000, end=True)
        await connection.receive(lambda error=error, data=data: {error, data} <= connection.ended)  # type: ignore[misc]
    assert [connection.data[data] for _, data in pairs[:2]] == [b"80:" + b"x" * 100_000, b"443:" + b"x" * 100_000]
    for error, data in pairs[2:]:
        await connection.receive(lambda error=error: error in connection.ended)  # type: ignore[misc]
        assert data in connection.reset or not connection.data.get(data)
    assert b"connection refused" in connection.data[pairs[2][0]]
    assert b"not a port" in connection.data[pairs[3][0]]
    # A stream whose kind is not known is refused, and the connection goes on.
    strange = await connection.open({"streamType": "more", "port": "80", "requestID": "9"})
    await connection.receive(lambda: strange in connection.reset)
    # Clients from before request ids.
    error = await connection.open({"streamType": "error", "port": "80"}, end=True)
    data = await connection.open({"streamType": "data", "port": "80"})
    await connection.send(data, b"old", end=True)
    await connection.receive(lambda: error in connection.ended)
    assert connection.data[data] == b"80:old"


async def test_half_a_pair_is_given_up() -> None:
    async with serving(stream_creation_timeout=0.2) as server, spdy(forwarding(server), PORT_FORWARD) as connection:
        lonely = await connection.open({"streamType": "data", "port": "80", "requestID": "1"})
        await connection.receive(lambda: lonely in connection.reset)


async def test_ports_in_channels(server: StreamServer) -> None:
    async with websocket(forwarding(server, 80, 13), [V4]) as socket:
        channels = Channels(socket)
        await channels.send(0, b"hello")
        await channels.receive(
            lambda: b"hello" in channels.data.get(0, b"") and b"refused" in channels.data.get(3, b"")
        )
        assert channels.data[0] == (80).to_bytes(2, "little") + b"80:hello"
        assert channels.data[1] == (80).to_bytes(2, "little")
        assert channels.data[2] == (13).to_bytes(2, "little")
        assert channels.data[3].startswith((13).to_bytes(2, "little"))
    with pytest.raises(aiohttp.WSServerHandshakeError):
        async with websocket(forwarding(server), [V4]):
            pass


async def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run([*make, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    pair = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
    async with serving(enable_tls_streaming=True, x509_key_pair_streaming=pair) as server:
        url = grant(server)
        assert url.startswith("https://127.0.0.1:")
        async with spdy(url, V4, tls=trusting) as connection:
            command = await Command.open(connection, "stdin", "stdout", "stderr")
            await command.send("stdin", b"", end=True)
            assert (await command.status())["status"] == "Success"
        async with websocket(grant(server), ["v5.channel.k8s.io"], tls=trusting) as socket:
            await socket.send_bytes(b"\xff\x00")
            channels = Channels(socket)
            await channels.receive()
            assert json.loads(channels.data[3])["status"] == "Success"
    with pytest.raises(InvalidArgument, match="TLS key pair"):
        async with serving(enable_tls_streaming=True, x509_key_pair_streaming={**pair, "tls_key_file": "/nowhere"}):
            pass


def test_configuration_that_makes_no_sense() -> None:
    for config in (
        Config(stream_server_port="65536"),
        Config(enable_tls_streaming=True),
        Config(enable_tls_streaming=True, x509_key_pair_streaming=KeyPair(tls_cert_file="/cert")),
    ):
        with pytest.raises(InvalidArgument):
            config.check()


async def test_where_it_listens() -> None:
    async with serving(stream_server_address="0.0.0.0") as server:
        host = grant(server).split("/")[2].partition(":")[0]
        assert host != "0.0.0.0"
        async with spdy(grant(server), V4):
            pass
        port = grant(server).split("/")[2].partition(":")[2]
        with pytest.raises(Unavailable, match="cannot listen"):
            async with serving(stream_server_port=port):
                pass
