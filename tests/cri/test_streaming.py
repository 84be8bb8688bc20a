"""Exec, Attach and PortForward on a running daemon, with clients over SPDY and WebSocket."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.streaming import PORT_FORWARD, V4, Channels, Command, Spdy, spdy, tunnel, websocket

Pod = tuple[str, cri_pb2.PodSandboxConfig]

V5 = "v5.channel.k8s.io"
SERVER = "nc -ll -p {port} -e sh -c 'echo ready; cat'"


@pytest.fixture
def pod(cri: CriClient, logs: Path) -> Pod:
    config = pod_config(network=cri_pb2.NODE, log_directory=logs)
    return cri.run_pod(config), config


@pytest.fixture
def sleeper(cri: CriClient, pod: Pod, busybox: str) -> str:
    """A container that does nothing."""
    return cri.start(*pod, container_config(busybox, "sleep", "1000"))


def exec_url(cri: CriClient, container: str, *command: str, stdin: bool = False, tty: bool = False) -> str:
    answer = cri.Exec(container_id=container, cmd=command, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
    url: str = answer.url
    return url


def attach_url(cri: CriClient, container: str, *, stdin: bool = False, tty: bool = False, stdout: bool = True) -> str:
    answer = cri.Attach(container_id=container, stdin=stdin, stdout=stdout, stderr=stdout and not tty, tty=tty)
    url: str = answer.url
    return url


async def until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def in_container(cri: CriClient, container: str, mark: str) -> bool:
    """Whether a command with that mark in its arguments runs there."""
    return mark in cri.execute(container, "ps", "-o", "args").stdout.decode()


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process are of."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def log_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_exec_over_spdy(cri: CriClient, sleeper: str) -> None:
    url = exec_url(cri, sleeper, "sh", "-c", "cat; echo problem >&2; exit 3", stdin=True)
    async with spdy(url, V4) as connection:
        command = await Command.open(connection, "stdin", "stdout", "stderr")
        await command.send("stdin", b"hello\n")
        await command.until("stdout", b"hello\n")
        await command.send("stdin", b"bye\n", end=True)
        status = await command.status()
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        assert (command.output("stdout"), command.output("stderr")) == (b"hello\nbye\n", b"problem\n")


async def test_exec_in_channels(cri: CriClient, sleeper: str) -> None:
    async with websocket(exec_url(cri, sleeper, "cat", stdin=True), [V5]) as socket:
        channels = Channels(socket)
        await channels.send(0, b"hello")
        await channels.receive(lambda: channels.data.get(1) == b"hello")
        await socket.send_bytes(b"\xff\x00")
        await channels.receive()
        assert b'"Success"' in channels.data[3]
        assert socket.close_code == 1000


async def test_exec_with_a_terminal(cri: CriClient, sleeper: str) -> None:
    # The size goes another way than the input: ask until it is there.
    script = "until [ \"$(stty size 2>/dev/null)\" = '50 132' ]; do sleep 0.05; done; read line; tty; echo $TERM"
    url = exec_url(cri, sleeper, "sh", "-c", script, stdin=True, tty=True)
    async with spdy(url, V4) as connection:
        command = await Command.open(connection, "stdin", "stdout", "resize")
        await command.send("resize", b'{"Width":132,"Height":50}\n')
        await command.send("stdin", b"\n")
        assert (await command.status())["status"] == "Success"
        assert command.output("stdout").split() == [b"/dev/pts/0", b"xterm"]


async def test_exec_sends_all_that_was_written(cri: CriClient, sleeper: str) -> None:
    """To a client that is slow, too."""
    async with spdy(exec_url(cri, sleeper, "head", "-c", "20000000", "/dev/zero"), V4) as connection:
        command = await Command.open(connection, "stdout", "stderr")
        await asyncio.sleep(1)
        assert (await command.status())["status"] == "Success"
        assert len(command.output("stdout")) == 20_000_000


async def test_exec_takes_all_that_is_sent(cri: CriClient, sleeper: str) -> None:
    async with spdy(exec_url(cri, sleeper, "wc", "-c", stdin=True), V4) as connection:
        command = await Command.open(connection, "stdin", "stdout", "stderr")
        for _ in range(100):
            await command.send("stdin", bytes(100_000))
        await command.send("stdin", b"", end=True)
        assert (await command.status())["status"] == "Success"
        assert command.output("stdout") == b"10000000\n"


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_client_that_goes_kills_what_it_ran(cri: CriClient, sleeper: str, transport: str) -> None:
    mark = f"mark-{secrets.token_hex(4)}"
    url = exec_url(cri, sleeper, "sh", "-c", f"echo started; sleep 1000; : {mark}")
    if transport == "spdy":
        async with spdy(url, V4) as connection:
            await (await Command.open(connection, "stdout", "stderr")).until("stdout", b"started")
            assert in_container(cri, sleeper, mark)
    else:
        async with websocket(url, [V4]) as socket:
            channels = Channels(socket)
            await channels.receive(lambda: b"started" in channels.data.get(1, b""))
            assert in_container(cri, sleeper, mark)
    await until(lambda: not in_container(cri, sleeper, mark), "the command still runs")


async def test_a_command_that_reads_nothing(cri: CriClient, sleeper: str) -> None:
    """Input that is left over does not keep the status from its client."""
    async with spdy(exec_url(cri, sleeper, "sh", "-c", "exit 5", stdin=True), V4) as connection:
        command = await Command.open(connection, "stdin", "stdout", "stderr")
        for _ in range(50):
            await command.send("stdin", bytes(1 << 16))
        status = await command.status()
        assert status["details"]["causes"][0]["message"] == "5"


async def test_a_command_whose_child_keeps_its_output(cri: CriClient, sleeper: str) -> None:
    started = time.monotonic()
    async with spdy(exec_url(cri, sleeper, "sh", "-c", "sleep 60 & echo done"), V4) as connection:
        command = await Command.open(connection, "stdout", "stderr")
        assert (await command.status())["status"] == "Success"
        assert command.output("stdout") == b"done\n"
    assert time.monotonic() - started < 30


async def test_a_command_that_is_not_there(cri: CriClient, sleeper: str) -> None:
    async with spdy(exec_url(cri, sleeper, "/no/such/program"), V4) as connection:
        status = await (await Command.open(connection, "stdout", "stderr")).status()
        assert (status["status"], status["reason"]) == ("Failure", "InternalError")
        assert "/no/such/program" in status["message"]


async def test_execs_leave_nothing(cri: CriClient, shared_daemon: Daemon, sleeper: str) -> None:
    assert shared_daemon.process is not None
    pid = shared_daemon.process.pid
    folder = shared_daemon.state / "io.containerd.grpc.v1.cri/exec"

    def held() -> int:
        """Sockets and FIFOs of the daemon. Its threads may have opened a database each."""
        return sum(1 for name in open_files(pid) if name.startswith(("socket:", "pipe:", str(folder))))

    async def one() -> None:
        async with spdy(exec_url(cri, sleeper, "true"), V4) as connection:
            await (await Command.open(connection, "stdout", "stderr")).status()

    await one()
    before = held()
    for _ in range(5):
        await asyncio.gather(*(one() for _ in range(4)))
    await until(lambda: held() <= before, "descriptors are left")
    await until(lambda: not list(folder.iterdir()), "FIFOs are left")


def test_calls_that_are_refused(cri: CriClient, pod: Pod, busybox: str, sleeper: str) -> None:
    created = cri.create(*pod, container_config(busybox, "true", name="other"))
    for call, code in (
        (lambda: exec_url(cri, "nothing", "true"), Code.NOT_FOUND),
        (lambda: exec_url(cri, created, "true"), Code.FAILED_PRECONDITION),
        (lambda: exec_url(cri, sleeper), Code.INVALID_ARGUMENT),
        (lambda: cri.Exec(container_id=sleeper, cmd=["true"]), Code.INVALID_ARGUMENT),
        (
            lambda: cri.Exec(container_id=sleeper, cmd=["true"], stdout=True, stderr=True, tty=True),
            Code.INVALID_ARGUMENT,
        ),
        (lambda: attach_url(cri, created), Code.FAILED_PRECONDITION),
        (lambda: attach_url(cri, "nothing"), Code.NOT_FOUND),
        (lambda: cri.PortForward(pod_sandbox_id="nothing", port=[80]), Code.NOT_FOUND),
        (lambda: cri.PortForward(pod_sandbox_id=pod[0], port=[0]), Code.INVALID_ARGUMENT),
    ):
        with pytest.raises(MoorageError) as caught:
            call()
        assert caught.value.code is code


async def test_attach(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    """Two clients see what is written from now on; the log has all of it."""
    config = container_config(
        busybox,
        "sh",
        "-c",
        'echo before; while read l; do echo "out $l"; echo "err $l" >&2; done; echo end',
        log_path="0.log",
    )
    config.stdin = config.stdin_once = True
    container = cri.start(*pod, config)
    await until(lambda: "before" in log_text(logs / "0.log"), "nothing in the log")
    async with (
        spdy(attach_url(cri, container), V4) as watching,
        spdy(attach_url(cri, container, stdin=True), V4) as typing,
    ):
        first = await Command.open(watching, "stdout", "stderr")
        second = await Command.open(typing, "stdin", "stdout", "stderr")
        await second.send("stdin", b"1\n")
        await second.until("stdout", b"out 1\n")
        await second.until("stderr", b"err 1\n")
        # Whether the other was there in time for the first line is chance; for the second it is not.
        await asyncio.sleep(0.3)
        await second.send("stdin", b"2\n", end=True)
        for command in (first, second):
            assert (await command.status())["status"] == "Success"
            assert command.output("stdout").endswith(b"out 2\nend\n")
            assert command.output("stderr").endswith(b"err 2\n")
            assert b"before" not in command.output("stdout")
    await until(lambda: "stdout F end" in log_text(logs / "0.log"), "the log is cut short")
    for line in ("stdout F before", "stdout F out 1", "stderr F err 1", "stdout F out 2", "stderr F err 2"):
        assert line in log_text(logs / "0.log")


async def _resize(channels: Channels, width: int, height: int) -> None:
    """Send a size, and ask for it until it is there: it goes another way than the input."""
    await channels.receive(lambda: 1 in channels.data)
    await channels.send(4, b'{"Width":%d,"Height":%d}' % (width, height))
    while b"%d %d" % (height, width) not in channels.data[1]:
        enough = channels.data[1].count(b"\n") + 2
        await channels.send(0, b"stty size\n")
        await channels.receive(lambda enough=enough: channels.data[1].count(b"\n") >= enough)  # type: ignore[misc]


async def test_attach_to_a_terminal_in_channels(cri: CriClient, pod: Pod, busybox: str) -> None:
    config = container_config(busybox, "sh")
    config.stdin = config.tty = True
    container = cri.start(*pod, config)
    for width, height in ((100, 40), (132, 50)):
        async with websocket(attach_url(cri, container, stdin=True, tty=True), [V5]) as socket:
            await _resize(Channels(socket), width, height)
    assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING
    async with websocket(attach_url(cri, container, stdin=True, tty=True), [V5]) as socket:
        channels = Channels(socket)
        await channels.send(0, b"exit 4\n")
        await channels.receive()
        assert b'"Success"' in channels.data[3]
    await until(lambda: cri.status(container).exit_code == 4, "the container goes on")


async def test_a_reader_that_stands_still_is_dropped(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    """The container waits for it for some seconds, and goes on."""
    config = container_config(
        busybox, "sh", "-c", "sleep 1; head -c 40000000 /dev/zero | tr '\\0' 'x'; echo; echo over"
    )
    config.log_path = "0.log"
    container = cri.start(*pod, config)
    async with spdy(attach_url(cri, container), V4) as connection:
        await Command.open(connection, "stdout", "stderr")
        await until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED, "the container stands still", 60)
    assert "stdout F over" in log_text(logs / "0.log")[-200:]


@pytest.fixture
async def networked(cri: CriClient, logs: Path, busybox: str) -> str:
    """A pod with a network of its own, and a server on its ports 80 and 81."""
    config = pod_config(log_directory=logs)
    pod = cri.run_pod(config)
    script = f"{SERVER.format(port=80)} & {SERVER.format(port=81)}"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", script))
    await until(lambda: b":81 " in cri.execute(container, "netstat", "-ltn").stdout, "the server does not listen")
    await until(lambda: b":80 " in cri.execute(container, "netstat", "-ltn").stdout, "the server does not listen")
    return pod


def port_url(cri: CriClient, pod: str, *ports: int) -> str:
    url: str = cri.PortForward(pod_sandbox_id=pod, port=ports).url
    return url


async def _talk(connection: Spdy, port: int, number: int = 0) -> bytes:
    """One connection to a port, to the end of what was sent; returns the error stream's text."""
    headers = {"port": str(port), "requestID": str(number)}
    error = await connection.open({**headers, "streamType": "error"}, end=True)
    data = await connection.open({**headers, "streamType": "data"})
    await connection.send(data, b"hello\n" * 10_000, end=True)
    await connection.receive(lambda: error in connection.ended)
    if not connection.data.get(error):
        assert connection.data[data] == b"ready\n" + b"hello\n" * 10_000
    return bytes(connection.data.get(error, b""))


async def test_ports_of_a_pod(cri: CriClient, networked: str) -> None:
    async with spdy(port_url(cri, networked), PORT_FORWARD) as connection:
        assert await _talk(connection, 80) == b""
        assert await _talk(connection, 81, 1) == b""
        assert b"Connection refused" in await _talk(connection, 82, 2)
    async with websocket(port_url(cri, networked, 80), [f"SPDY/3.1+{PORT_FORWARD}"]) as socket:
        assert await _talk(await tunnel(socket), 80) == b""
    async with websocket(port_url(cri, networked, 81), [V4]) as socket:
        channels = Channels(socket)
        await channels.send(0, b"hello")
        await channels.receive(lambda: channels.data.get(0, b"").endswith(b"ready\nhello"))


async def test_ports_of_a_pod_in_the_host_s_network(cri: CriClient, pod: Pod) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready\n" + await reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    async with spdy(port_url(cri, pod[0], port), PORT_FORWARD) as connection:
        assert await _talk(connection, port) == b""
    server.close()
    await server.wait_closed()


def test_a_pod_that_is_not_ready(cri: CriClient, pod: Pod) -> None:
    cri.stop_pod(pod[0])
    with pytest.raises(MoorageError) as caught:
        port_url(cri, pod[0], 80)
    assert caught.value.code is Code.FAILED_PRECONDITION
