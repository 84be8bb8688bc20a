"""The transfer and streaming services: requests, progress and questions for credentials, as containerd's clients speak.

The engine is a stand-in that does what each test says; the wire is real.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from moorage_api.errors import NotFound
from moorage_api.images import Image
from moorage_api.transfer import Credentials, Progress, ProgressSink, PullOptions
from moorage_api.types import Descriptor, Platform
from moorage_api.wire import streaming_pb2, transfer_pb2, types_pb2
from moorage_api.wire import transfer_types_pb2 as types
from moorage_api.wire.streaming_pb2_grpc import StreamingStub
from moorage_api.wire.transfer_pb2_grpc import TransferStub
from mooraged.services import streaming, transfer
from mooraged.services.streaming import StreamManager

from .conftest import failure

HEADERS = (("containerd-namespace", "test"),)
REFERENCE = "registry.test/library/busybox:latest"
IMAGE = Image(REFERENCE, Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "0" * 64, 2))

Pull = Callable[[str, PullOptions, ProgressSink | None], Awaitable[Image]]


def pack(message: Message) -> AnyMessage:
    """An Any as Go's typeurl makes it."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


class Engine:
    """Notes what it is asked, and pulls as it is told."""

    def __init__(self) -> None:
        self.pull_as: Pull | None = None
        self.pulls: list[tuple[str, str, PullOptions]] = []
        self.unpacks: list[tuple[str, str, Platform | None]] = []

    def bind(self, namespace: str) -> Bound:
        return Bound(self, namespace)


class Bound:
    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine = engine
        self._namespace = namespace

    async def pull(
        self, reference: str, options: PullOptions = PullOptions(), progress: ProgressSink | None = None
    ) -> Image:
        self._engine.pulls.append((self._namespace, reference, options))
        return await self._engine.pull_as(reference, options, progress) if self._engine.pull_as else IMAGE

    async def unpack(self, image: Image, snapshotter: str = "", platform: Platform | None = None) -> str:
        self._engine.unpacks.append((image.name, snapshotter, platform))
        return "sha256:" + "1" * 64


class OpenStream:
    """A client's end of a stream."""

    def __init__(self, stub: StreamingStub, id: str, headers: tuple[tuple[str, str], ...] = HEADERS) -> None:
        self._outgoing: queue.Queue[AnyMessage | None] = queue.Queue()
        self._outgoing.put(pack(streaming_pb2.StreamInit(id=id)))
        self.call = stub.Stream(iter(self._outgoing.get, None), metadata=headers, timeout=30)

    def acknowledged(self) -> OpenStream:
        assert next(self.call).type_url == "google.protobuf.Empty"
        return self

    def send(self, message: Message) -> None:
        self._outgoing.put(pack(message))

    def close(self) -> None:
        self._outgoing.put(None)
        self.call.cancel()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def channel(engine: Engine, serve: Any) -> grpc.Channel:
    manager = StreamManager()
    connection: grpc.Channel = serve([streaming.service(manager), transfer.service(engine, manager)]).channel()
    return connection


@pytest.fixture(autouse=True)
def _fresh(engine: Engine) -> None:
    engine.pull_as = None
    engine.pulls.clear()
    engine.unpacks.clear()


@pytest.fixture
def stub(channel: grpc.Channel) -> TransferStub:
    return TransferStub(channel)


@pytest.fixture
def open_stream(channel: grpc.Channel) -> Iterator[Callable[..., OpenStream]]:
    streams: list[OpenStream] = []

    def start(id: str, headers: tuple[tuple[str, str], ...] = HEADERS) -> OpenStream:
        streams.append(OpenStream(StreamingStub(channel), id, headers))
        return streams[-1]

    yield start
    for stream in streams:
        stream.close()


def request(
    *, resolver: types.RegistryResolver | None = None, store: types.ImageStore | None = None, progress: str = ""
) -> transfer_pb2.TransferRequest:
    return transfer_pb2.TransferRequest(
        source=pack(types.OCIRegistry(reference=REFERENCE, resolver=resolver)),
        destination=pack(store or types.ImageStore(name=REFERENCE)),
        options=transfer_pb2.TransferOptions(progress_stream=progress),
    )


def pull(stub: TransferStub, asked: transfer_pb2.TransferRequest) -> None:
    stub.Transfer(asked, metadata=HEADERS, timeout=30)


def test_a_pull_has_what_the_client_asked_for(stub: TransferStub, engine: Engine) -> None:
    amd64 = types_pb2.Platform(os="linux", architecture="amd64")
    arm64 = types_pb2.Platform(os="linux", architecture="arm64", variant="v8")
    store = types.ImageStore(
        name="other.test/name:1",
        labels={"a": "b"},
        platforms=[amd64, arm64],
        unpacks=[
            types.UnpackConfiguration(platform=amd64, snapshotter="native"),
            types.UnpackConfiguration(platform=arm64, snapshotter="overlayfs"),
        ],
        extra_references=[
            types.ImageReference(name="third.test/name:2"),
            types.ImageReference(name="prefix", is_prefix=True),
        ],
    )
    pull(stub, request(resolver=types.RegistryResolver(host_dir="/hosts", default_scheme="http"), store=store))
    ((namespace, reference, options),) = engine.pulls
    assert (namespace, reference) == ("test", REFERENCE)
    assert options.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"))
    assert (options.unpack, options.snapshotter) == (True, "native")
    assert (options.labels, options.hosts_dir, options.plain_http) == ({"a": "b"}, "/hosts", True)
    assert options.names == ["other.test/name:1", "third.test/name:2"]
    assert options.credentials is None
    assert engine.unpacks == [(REFERENCE, "overlayfs", Platform("linux", "arm64", "v8"))]


def test_without_unpacking_nothing_is_unpacked(stub: TransferStub, engine: Engine) -> None:
    pull(stub, request())
    options = engine.pulls[0][2]
    assert (options.unpack, options.plain_http, options.names) == (False, None, [])


def test_progress_arrives_in_order_and_ends_with_the_transfer(
    stub: TransferStub, engine: Engine, open_stream: Callable[[str], OpenStream]
) -> None:
    steps = [Progress("downloading", "layer-sha256:ab", "sha256:" + "a" * 64, "m", ("p",), n, 300) for n in range(300)]

    async def steadily(_reference: str, _options: PullOptions, progress: ProgressSink | None) -> Image:
        assert progress is not None
        for step in steps[:100]:
            progress(step)
        # From a thread, as a fetch that is written to disk has it.
        await asyncio.to_thread(lambda: [progress(step) for step in steps[100:]])
        return IMAGE

    engine.pull_as = steadily
    stream = open_stream("progress-1").acknowledged()
    pull(stub, request(progress="progress-1"))
    received = [types.Progress.FromString(message.value) for message in stream.call]
    assert [step.progress for step in received] == list(range(300))
    last = received[-1]
    assert (last.event, last.name, list(last.parents), last.total) == ("downloading", "layer-sha256:ab", ["p"], 300)
    assert (last.desc.digest, last.desc.media_type) == ("sha256:" + "a" * 64, "m")


def test_progress_that_nobody_reads_holds_nothing_up(
    stub: TransferStub, engine: Engine, open_stream: Callable[[str], OpenStream]
) -> None:
    async def chatty(_reference: str, _options: PullOptions, progress: ProgressSink | None) -> Image:
        assert progress is not None
        for number in range(100_000):
            progress(Progress("downloading", "x" * 100, progress=number))
            if number % 1000 == 0:
                await asyncio.sleep(0)
        return IMAGE

    engine.pull_as = chatty
    open_stream("unread").acknowledged()
    started = time.monotonic()
    pull(stub, request(progress="unread"))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("response", "credentials"),
    [
        (types.AuthResponse(authType=types.CREDENTIALS, username="me", secret="s"), Credentials("me", "s")),
        (types.AuthResponse(authType=types.REFRESH, secret="token"), Credentials(secret="token")),
        (types.AuthResponse(authType=types.REFRESH), None),
        (types.AuthResponse(authType=types.HEADER, secret="Bearer x"), Credentials(header="Bearer x")),
        (types.AuthResponse(), None),
    ],
)
def test_the_client_is_asked_for_credentials(
    stub: TransferStub,
    engine: Engine,
    open_stream: Callable[[str], OpenStream],
    response: types.AuthResponse,
    credentials: Credentials | None,
) -> None:
    answers: list[Credentials | None] = []

    async def asking(_reference: str, options: PullOptions, _progress: ProgressSink | None) -> Image:
        assert options.credentials is not None
        # Two at once: an answer does not say which question it answers, so they must not cross.
        answers.extend(await asyncio.gather(options.credentials("a.test"), options.credentials("b.test:5000")))
        return IMAGE

    engine.pull_as = asking
    stream = open_stream("creds-1").acknowledged()
    asked: list[types.AuthRequest] = []

    def answer() -> None:
        for message in stream.call:
            asked.append(types.AuthRequest.FromString(message.value))
            stream.send(response)
            if len(asked) == 2:
                return

    thread = threading.Thread(target=answer)
    thread.start()
    pull(stub, request(resolver=types.RegistryResolver(auth_stream="creds-1")))
    thread.join(timeout=10)
    assert answers == [credentials, credentials]
    assert [(each.host, each.reference) for each in asked] == [("a.test", REFERENCE), ("b.test:5000", REFERENCE)]


def test_a_client_that_leaves_before_it_answers_has_no_credentials(
    stub: TransferStub, engine: Engine, open_stream: Callable[[str], OpenStream]
) -> None:
    answers: list[Credentials | None] = []

    async def asking(_reference: str, options: PullOptions, _progress: ProgressSink | None) -> Image:
        assert options.credentials is not None
        answers.append(await options.credentials("a.test"))
        return IMAGE

    engine.pull_as = asking
    stream = open_stream("creds-gone").acknowledged()
    leaving = threading.Thread(target=lambda: (next(stream.call), stream.close()))
    leaving.start()
    pull(stub, request(resolver=types.RegistryResolver(auth_stream="creds-gone")))
    leaving.join(timeout=10)
    assert answers == [None]


def test_an_error_of_the_engine_keeps_its_code_and_ends_the_progress(
    stub: TransferStub, engine: Engine, open_stream: Callable[[str], OpenStream]
) -> None:
    async def failing(_reference: str, _options: PullOptions, _progress: ProgressSink | None) -> Image:
        raise NotFound("no such manifest")

    engine.pull_as = failing
    stream = open_stream("progress-2").acknowledged()
    found = failure(lambda: pull(stub, request(progress="progress-2")))
    assert found == (grpc.StatusCode.NOT_FOUND, "no such manifest")
    assert list(stream.call) == []


def test_a_transfer_that_its_client_leaves_is_cancelled(stub: TransferStub, engine: Engine) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def endless(_reference: str, _options: PullOptions, _progress: ProgressSink | None) -> Image:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return IMAGE

    engine.pull_as = endless
    call = stub.Transfer.future(request(), metadata=HEADERS, timeout=30)
    assert begun.wait(10)
    call.cancel()
    assert ended.wait(10)


def test_other_routes_are_not_offered(stub: TransferStub) -> None:
    asked = transfer_pb2.TransferRequest(
        source=pack(types.ImageImportStream(stream="a")), destination=pack(types.OCIRegistry(reference="b"))
    )
    code, message = failure(lambda: pull(stub, asked))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert "ImageImportStream" in message
    assert failure(lambda: pull(stub, transfer_pb2.TransferRequest()))[0] == grpc.StatusCode.UNIMPLEMENTED


def test_malformed_requests_are_refused(stub: TransferStub) -> None:
    wrong_scheme = request(resolver=types.RegistryResolver(default_scheme="ftp"))
    spoilt = request()
    spoilt.source.value = b"\xff\xff"
    for asked in (wrong_scheme, spoilt):
        assert failure(lambda asked=asked: pull(stub, asked))[0] == grpc.StatusCode.INVALID_ARGUMENT
    no_stream = request(progress="nobody")
    assert failure(lambda: pull(stub, no_stream)) == (grpc.StatusCode.NOT_FOUND, "stream 'nobody' is not open")
    code, _ = failure(lambda: stub.Transfer(request(), timeout=10))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_type_urls_may_have_a_prefix(stub: TransferStub, engine: Engine) -> None:
    asked = request()
    asked.source.type_url = f"type.googleapis.com/{asked.source.type_url}"
    pull(stub, asked)
    assert engine.pulls[0][1] == REFERENCE


def test_a_stream_belongs_to_its_namespace(stub: TransferStub, open_stream: Callable[..., OpenStream]) -> None:
    open_stream("theirs", (("containerd-namespace", "other"),)).acknowledged()
    asked = request(progress="theirs")
    assert failure(lambda: pull(stub, asked))[0] == grpc.StatusCode.NOT_FOUND


def test_a_streams_id_is_taken_once_and_free_again(
    stub: TransferStub, open_stream: Callable[[str], OpenStream]
) -> None:
    first = open_stream("same").acknowledged()
    second = open_stream("same")
    assert failure(lambda: next(second.call))[0] == grpc.StatusCode.ALREADY_EXISTS
    first.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        third = open_stream("same")
        try:
            third.acknowledged()
            return
        except grpc.RpcError:
            time.sleep(0.05)
    pytest.fail("the id of a closed stream is not free again")


@pytest.mark.parametrize("first", [pack(types.Data(data=b"x")), AnyMessage(), pack(streaming_pb2.StreamInit()), None])
def test_a_stream_opens_with_its_id(channel: grpc.Channel, first: AnyMessage | None) -> None:
    call = StreamingStub(channel).Stream(iter([first] if first is not None else []), metadata=HEADERS, timeout=10)
    assert failure(lambda: next(call))[0] == grpc.StatusCode.INVALID_ARGUMENT
