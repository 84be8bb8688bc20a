"""`moorage.cri` against two runtimes: Moorage, and Debian's containerd."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from moorage import cri
from moorage.cri import v1
from moorage.cri.rpcs import Streaming, Unary
from moorage.cri.services import ImageService, RuntimeService
from moorage.cri.streaming.connect import process
from moorage.cri.streaming.process import exit_code
from moorage.cri.streaming.transport import Transport
from moorage.portal import shared
from moorage_api.errors import Cancelled, DeadlineExceeded, InvalidArgument, MoorageError, NotFound, Unavailable
from support.cri import until
from support.daemon import Daemon
from support.images import ImageSpec, push
from support.peer import Peer
from support.registry import Registry

Pod = tuple[str, v1.PodSandboxConfig]
VIA = pytest.mark.parametrize("via", ["spdy", "websocket"])


@pytest.fixture(scope="module", params=["moorage", "containerd"])
def runtime(request: pytest.FixtureRequest, registry: Registry, busybox: str) -> Iterator[Daemon | Peer]:
    """A running runtime with an image."""
    with ExitStack() as stack:
        if request.param == "moorage":
            running: Daemon | Peer = stack.enter_context(Daemon())
        else:
            push(registry.address, "pause", "3.9", ImageSpec(config={"Entrypoint": ["/bin/sleep", "1000000"]}))
            running = stack.enter_context(Peer(f"{registry.address}/pause:3.9"))
        with cri.Client(running.address) as client:
            client.wait_ready()
            assert client.pull(busybox)
        yield running


@pytest.fixture
def client(runtime: Daemon | Peer) -> Iterator[cri.Client]:
    """A client; what pods a test leaves are removed after it."""
    with cri.Client(f"unix://{runtime.address}") as opened:
        yield opened
        for pod in opened.ListPodSandbox().items:
            opened.stop_pod(pod.id)
            opened.remove_pod(pod.id)


@pytest.fixture
def pod(client: cri.Client, tmp_path: Path) -> Pod:
    """A pod in the host's network."""
    config = cri.pod_config(network=v1.NODE, log_directory=tmp_path)
    return client.run_pod(config), config


@pytest.fixture
def sleeper(client: cri.Client, pod: Pod, busybox: str) -> str:
    return client.start(*pod, cri.container_config(busybox, "sleep", "1000"))


@pytest.mark.parametrize("service", [RuntimeService, ImageService])
def test_every_rpc_is_declared_as_the_protocol_has_it(service: type[RuntimeService | ImageService]) -> None:
    declared = {name: rpc for name, rpc in vars(service).items() if isinstance(rpc, Unary | Streaming)}
    methods = v1.DESCRIPTOR.services_by_name[service.SERVICE].methods
    assert {method.name for method in methods} == set(declared)
    for method in methods:
        rpc = declared[method.name]
        assert isinstance(rpc, Streaming if method.server_streaming else Unary)
        assert (method.input_type, method.output_type) == (rpc.request.DESCRIPTOR, rpc.response.DESCRIPTOR)
        assert (rpc.service, rpc.name) == (service.SERVICE, method.name)


def test_a_pod_and_a_container(client: cri.Client, busybox: str, tmp_path: Path) -> None:
    assert client.Version().runtime_name
    config = cri.pod_config("whole", labels={"a": "b"}, log_directory=tmp_path)
    pod = client.run_pod(config)
    container = client.create(pod, config, cri.container_config(busybox, "sh", "-c", "echo hi; sleep 60", log_path="l"))
    assert client.status(container).state == v1.CONTAINER_CREATED
    client.StartContainer(v1.StartContainerRequest(container_id=container))
    assert client.execute(container, "hostname").stdout == b"whole\n"
    assert [each.id for each in client.ListContainers(filter={"pod_sandbox_id": pod}).containers] == [container]
    until(lambda: b"stdout F hi\n" in (tmp_path / "l").read_bytes())
    client.stop(container)
    assert client.status(container).exit_code == 137
    client.remove(container)
    client.stop_pod(pod)
    client.remove_pod(pod)
    assert list(client.ListPodSandbox().items) == []


def test_errors_are_those_of_the_runtime_s_status(client: cri.Client, sleeper: str) -> None:
    with pytest.raises(NotFound):
        client.status("no-such-container")
    with pytest.raises(DeadlineExceeded):
        client.ExecSync(container_id=sleeper, cmd=["sleep", "50"], deadline=0.3)
    pending = client.ExecSync.begin(container_id=sleeper, cmd=["sleep", "50"])
    assert not pending.done()
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.result()


@VIA
def test_a_command_with_its_streams(client: cri.Client, sleeper: str, via: cri.Via) -> None:
    with client.exec(
        sleeper, "sh", "-c", "read line; echo $line; echo problem >&2; exit 3", stdin=True, via=via
    ) as run:
        run.write(b"hello\n")
        assert run.communicate() == cri.Output(3, b"hello\n", b"problem\n")
    with client.exec(sleeper, "true", via=via) as run:
        assert run.wait() == 0


def test_input_of_any_length_and_its_end(client: cri.Client, sleeper: str) -> None:
    data = bytes(range(256)) * 20_000
    with client.exec(sleeper, "cat", stdin=True) as run:
        assert run.communicate(data) == cri.Output(0, data, b"")


@VIA
def test_a_command_with_a_terminal(client: cri.Client, sleeper: str, via: cri.Via) -> None:
    script = "while [ \"$(stty size)\" != '33 111' ]; do sleep 0.05; done; echo resized"
    with client.exec(sleeper, "sh", "-c", script, stdin=True, tty=True, via=via) as run:
        run.resize(111, 33)
        written = b"".join(piece.data for piece in run.output())
        assert b"resized\r\n" in written
        assert run.wait() == 0


@VIA
def test_attach(client: cri.Client, pod: Pod, busybox: str, via: cri.Via) -> None:
    echo = cri.container_config(busybox, "sh", "-c", "while read line; do echo got $line; done", stdin=True)
    container = client.start(*pod, echo)
    with client.attach(container, stdin=True, via=via) as process:
        process.write(b"one\n")
        piece = process.read()
        assert piece == cri.Piece(cri.Stream.STDOUT, b"got one\n")


@VIA
def test_a_port(client: cri.Client, busybox: str, via: cri.Via) -> None:
    config = cri.pod_config()
    pod = client.run_pod(config)
    client.start(
        pod, config, cri.container_config(busybox, "nc", "-ll", "-p", "8000", "-e", "sh", "-c", "read x; echo $x")
    )
    listening = client.ListContainers().containers[0].id
    while client.execute(listening, "sh", "-c", "grep -q 1F40 /proc/net/tcp /proc/net/tcp6").exit_code:
        pass
    with client.port_forward(pod, 8000, via=via) as connection:
        connection.write(b"hello\n")
        assert connection.read() == b"hello\n"
        assert connection.read() == b""
    with (
        client.port_forward(pod, 8001, via=via) as connection,
        pytest.raises(Unavailable, match=r"(?i)port 8001|refused"),
    ):
        connection.read()


async def test_the_asynchronous_client(runtime: Daemon | Peer, busybox: str, tmp_path: Path) -> None:
    async with cri.AsyncClient(runtime.address) as client:
        await client.wait_ready()
        await client.pull(busybox)
        config = cri.pod_config(network=v1.NODE, log_directory=tmp_path)
        pod = await client.run_pod(config)
        container = await client.start(pod, config, cri.container_config(busybox, "sleep", "1000"))
        outputs = await asyncio.gather(*(client.execute(container, "echo", str(number)) for number in range(5)))
        assert [output.stdout for output in outputs] == [b"%d\n" % number for number in range(5)]
        async with client.exec(container, "cat", stdin=True) as process:
            assert await process.communicate(b"data") == cri.Output(0, b"data", b"")
        with pytest.raises(NotFound):
            await client.status("no-such-container")
        await client.stop(container)
        await client.remove(container)
        await client.stop_pod(pod)
        await client.remove_pod(pod)


def test_events_and_streamed_lists(runtime: Daemon | Peer, client: cri.Client, pod: Pod) -> None:
    if isinstance(runtime, Peer):
        pytest.skip("containerd 1.6 has no GetContainerEvents")
    assert [each.id for part in client.StreamPodSandboxes() for each in part.pod_sandboxes] == [pod[0]]
    told = []
    with client.GetContainerEvents(deadline=60) as events:
        # The stream is there when something has come; until then there is something to tell.
        done = threading.Event()
        other = threading.Thread(target=_make_pods, args=(runtime.address, done))
        other.start()
        told.append(next(events).container_event_type)
        done.set()
        other.join()
    assert told[0] in v1.ContainerEventType.values()
    with pytest.raises(MoorageError):
        list(events)


def _make_pods(address: str, done: threading.Event) -> None:
    with cri.Client(address) as client:
        while not done.wait(0.05):
            client.remove_pod(client.run_pod(cri.pod_config(network=v1.NODE)))


async def test_asynchronous_events(runtime: Daemon | Peer) -> None:
    if isinstance(runtime, Peer):
        pytest.skip("containerd 1.6 has no GetContainerEvents")
    async with cri.AsyncClient(runtime.address) as client, client.GetContainerEvents(deadline=60) as events:
        making = asyncio.ensure_future(client.run_pod(cri.pod_config(network=v1.NODE)))
        pod = await making
        await client.remove_pod(pod)
        async for event in events:
            assert event.container_id == pod
            break


def test_what_is_no_stream_server(client: cri.Client) -> None:
    with pytest.raises(InvalidArgument):
        shared().call(Transport.connect("file:///etc"))
    with pytest.raises(Unavailable):
        shared().call(Transport.connect("http://127.0.0.1:1/exec/x"))


@VIA
def test_an_address_works_once(client: cri.Client, sleeper: str, via: cri.Via) -> None:
    url = client.Exec(container_id=sleeper, cmd=["true"], stdout=True, stderr=True).url
    asked = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    with shared().enter(process(url, via, tls=None, **asked)) as first:
        assert shared().call(first.wait()) == 0
    with pytest.raises(Unavailable, match="refused: 404"), shared().enter(process(url, via, tls=None, **asked)):
        pass


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b'{"status":"Success"}', 0),
        (b'{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}', 7),
    ],
)
def test_a_status_document(status: bytes, code: int) -> None:
    assert exit_code(status) == code


@pytest.mark.parametrize(
    ("status", "message"), [(b"", "without a status"), (b"{", "not JSON"), (b'{"message":"no such thing"}', "no such")]
)
def test_a_status_that_tells_of_no_exit(status: bytes, message: str) -> None:
    with pytest.raises(MoorageError, match=message):
        exit_code(status)
