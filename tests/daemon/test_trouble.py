"""Bad input and trouble: whoever hears it gets an error with the right code, and nothing leaks, whatever is done how often."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from moorage_api.linux import mount
from moorage_api.mounts import Mount
from moorage_api.wire import (
    containers_pb2,
    containers_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    streaming_pb2,
    streaming_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    transfer_pb2,
    transfer_pb2_grpc,
)
from support.ctr import Ctr
from support.daemon import Daemon
from support.images import digest_of
from support.terminal import wait_until

NAMESPACE = (("containerd-namespace", "default"),)
ROUNDS = 10
READERS = 10_000
# What an allocator may keep: less than all rounds together use.
_SLACK = 48 << 20


@dataclass(frozen=True)
class Held:
    """What the daemon holds at one moment. `memory` in bytes, resident."""

    tasks: int
    threads: int
    descriptors: int
    fifos: int
    memory: int

    def exceeds(self, before: Held, slack: int) -> bool:
        """Whether more is held than before, of what is not memory. Pools of threads, and the files that their threads keep
        open, come to their size with time: of these `slack` may be more, which is less than one a round."""
        pooled = max(self.threads - before.threads, self.descriptors - before.descriptors)
        return self.tasks > before.tasks or self.fifos > before.fifos or pooled > slack


def held(daemon: Daemon) -> Held:
    """Ask the daemon to tell, and read it from its log."""
    assert daemon.process is not None
    pid, offset = daemon.process.pid, len(daemon.log())
    os.kill(pid, signal.SIGUSR1)
    pattern = re.compile(r"msg=state tasks=(\d+) threads=(\d+) descriptors=(\d+)")
    wait_until(lambda: pattern.search(daemon.log(), offset) is not None, "the daemon tells its state")
    found = pattern.search(daemon.log(), offset)
    assert found is not None
    fifos = sum(path.is_fifo() for path in daemon.folder.rglob("*") if "rootfs" not in path.parts)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Held(*(int(number) for number in found.groups()), fifos, pages * os.sysconf("SC_PAGE_SIZE"))


def leaks_nothing(daemon: Daemon, trouble: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Once to warm up, then again and again: in the end the daemon holds no more than after the first."""
    trouble()
    before = held(daemon)
    for _ in range(rounds):
        trouble()
    deadline = time.monotonic() + 30
    while (after := held(daemon)).exceeds(before, rounds // 2):
        assert time.monotonic() < deadline, f"before: {before}, after: {after}"
        time.sleep(0.2)
    assert after.memory < before.memory + _SLACK, f"before: {before}, after: {after}"


@pytest.fixture(scope="module")
def warm(shared_daemon: Daemon) -> Daemon:
    """The daemon, with all the threads of its pools, and what they keep open: these come with the first rush of calls."""
    with connection(shared_daemon) as opened:
        tasks, containers = tasks_pb2_grpc.TasksStub(opened), containers_pb2_grpc.ContainersStub(opened)
        how = {"metadata": NAMESPACE, "timeout": 30}
        rush = [tasks.Create.future(tasks_pb2.CreateTaskRequest(container_id="absent"), **how) for _ in range(300)]
        rush += [containers.Get.future(containers_pb2.GetContainerRequest(id="absent"), **how) for _ in range(300)]
        assert {call.code() for call in rush} == {grpc.StatusCode.NOT_FOUND}
    return shared_daemon


@pytest.fixture
def channel(warm: Daemon) -> Iterator[grpc.Channel]:
    with connection(warm) as opened:
        yield opened


def connection(daemon: Daemon) -> grpc.Channel:
    """A connection that is shared with nobody, so that closing it is what a client does that dies."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
    return grpc.insecure_channel(f"unix:{daemon.address}", options=options)


def code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    found: grpc.StatusCode = failed.value.code()
    return found


METHODS = [
    "containers.v1.Containers/Create",
    "content.v1.Content/Info",
    "diff.v1.Diff/Apply",
    "images.v1.Images/Update",
    "leases.v1.Leases/Create",
    "mounts.v1.Mounts/Activate",
    "snapshots.v1.Snapshots/Prepare",
    "tasks.v1.Tasks/Create",
    "transfer.v1.Transfer/Transfer",
]


def test_malformed_messages(warm: Daemon, channel: grpc.Channel) -> None:
    calls = [channel.unary_unary(f"/containerd.services.{method}") for method in METHODS]

    def trouble() -> None:
        for call in calls:
            answer = code(lambda call=call: call(b"\x0a\xff\xff\xff\xff\x0fx", metadata=NAMESPACE, timeout=20))  # type: ignore[misc]
            assert answer is grpc.StatusCode.INTERNAL

    leaks_nothing(warm, trouble)


def test_no_namespace(warm: Daemon, channel: grpc.Channel) -> None:
    calls = [channel.unary_unary(f"/containerd.services.{method}") for method in METHODS[:-1]]

    def trouble() -> None:
        for call in calls:
            answer = code(lambda call=call: call(b"", timeout=20))  # type: ignore[misc]
            # Some look at the request before they ask for whom it is.
            assert answer in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)

    leaks_nothing(warm, trouble)


def test_oversized_messages(warm: Daemon, channel: grpc.Channel) -> None:
    labels = {"key": "x" * (17 << 20)}
    request = containers_pb2.CreateContainerRequest(container=containers_pb2.Container(id="big", labels=labels))
    stub = containers_pb2_grpc.ContainersStub(channel)

    def trouble() -> None:
        answer = code(lambda: stub.Create(request, metadata=NAMESPACE, timeout=30))
        assert answer is grpc.StatusCode.RESOURCE_EXHAUSTED

    leaks_nothing(warm, trouble, rounds=6)


def test_unknown_types(warm: Daemon, channel: grpc.Channel) -> None:
    """An Any of a type that nobody knows is kept where it is data, and refused where it must be understood."""
    unknown = AnyMessage(type_url="example.com/Unknown", value=b"\xff\x00")
    containers, tasks = containers_pb2_grpc.ContainersStub(channel), tasks_pb2_grpc.TasksStub(channel)
    transfers = transfer_pb2_grpc.TransferStub(channel)
    how = {"metadata": NAMESPACE, "timeout": 20}

    def trouble() -> None:
        runtime = containers_pb2.Container.Runtime(name="io.containerd.runc.v2", options=unknown)
        given = containers_pb2.Container(id="odd", spec=unknown, runtime=runtime, extensions={"odd": unknown})
        made = containers.Create(containers_pb2.CreateContainerRequest(container=given), **how).container
        assert (made.spec, made.runtime.options, made.extensions["odd"]) == (unknown, unknown, unknown)
        create = tasks_pb2.CreateTaskRequest(container_id="odd")
        assert code(lambda: tasks.Create(create, **how)) is not grpc.StatusCode.OK
        containers.Delete(containers_pb2.DeleteContainerRequest(id="odd"), **how)
        transfer = transfer_pb2.TransferRequest(source=unknown, destination=unknown)
        answer = code(lambda: transfers.Transfer(transfer, **how))
        assert answer in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)

    leaks_nothing(warm, trouble)


def test_clients_that_vanish(warm: Daemon) -> None:
    """In the middle of a Write, a Read, a subscription and a stream, without a word."""

    numbers = iter(range(1000))

    def trouble() -> None:
        number = next(numbers)
        opened = connection(warm)
        release = threading.Event()
        content = content_pb2_grpc.ContentStub(opened)

        def half() -> Iterator[content_pb2.WriteContentRequest]:
            yield content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=f"half-{number}", data=bytes(1 << 20))
            release.wait(20)

        def hello() -> Iterator[AnyMessage]:
            opening = streaming_pb2.StreamInit(id=f"vanishing-{number}")
            yield AnyMessage(type_url=opening.DESCRIPTOR.full_name, value=opening.SerializeToString())
            release.wait(20)

        write = content.Write(half(), metadata=NAMESPACE, timeout=30)
        assert next(write).offset == 1 << 20
        stream = streaming_pb2_grpc.StreamingStub(opened).Stream(hello(), metadata=NAMESPACE, timeout=30)
        next(stream)
        events_pb2_grpc.EventsStub(opened).Subscribe(events_pb2.SubscribeRequest(), metadata=NAMESPACE, timeout=30)
        opened.close()
        release.set()

    leaks_nothing(warm, trouble)
    with connection(warm) as after:
        content = content_pb2_grpc.ContentStub(after)

        listed = content.ListStatuses(content_pb2.ListStatusesRequest(), metadata=NAMESPACE, timeout=20)
        refs = [status.ref for status in listed.statuses]
        assert len(refs) == next(numbers)
        for ref in refs:
            content.Abort(content_pb2.AbortRequest(ref=ref), metadata=NAMESPACE, timeout=20)


def test_a_fifo_that_nobody_opens(warm: Daemon, busybox: str, tmp_path: Path) -> None:
    """Neither a task nor its deletion waits for a reader or a writer."""
    ctr = Ctr(warm, "default")
    ctr("images", "pull", "--plain-http", busybox)
    with connection(warm) as channel:
        tasks = tasks_pb2_grpc.TasksStub(channel)
        how = {"metadata": NAMESPACE, "timeout": 30}
        names = [str(tmp_path / name) for name in ("in", "out", "err")]
        for name in names:
            os.mkfifo(name)

        def trouble() -> None:
            ctr("containers", "create", busybox, "lonely", "sh", "-l")
            tasks.Create(
                tasks_pb2.CreateTaskRequest(container_id="lonely", stdin=names[0], stdout=names[1], stderr=names[2]),
                **how,
            )
            tasks.Start(tasks_pb2.StartRequest(container_id="lonely"), **how)
            tasks.Kill(tasks_pb2.KillRequest(container_id="lonely", signal=9), **how)
            tasks.Wait(tasks_pb2.WaitRequest(container_id="lonely"), **how)
            tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id="lonely"), **how)
            ctr("containers", "rm", "lonely")

        leaks_nothing(warm, trouble, rounds=6)


async def test_ten_thousand_readers_of_events(daemon: Daemon) -> None:
    """They hold up neither each other nor anybody else, and leave nothing."""
    before = held(daemon)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}", options=options) as channel:
        stub = events_pb2_grpc.EventsStub(channel)
        request = events_pb2.SubscribeRequest(filters=['topic~="/trouble/.*"'])
        calls = [stub.Subscribe(request, metadata=NAMESPACE) for _ in range(READERS)]  # type: ignore[arg-type]
        heard = asyncio.gather(*(call.read() for call in calls))  # type: ignore[attr-defined]
        publish = events_pb2.PublishRequest(topic="/trouble/one", event=AnyMessage(type_url="x", value=b""))
        slowest = 0.0
        while not heard.done():
            started = time.monotonic()
            await stub.Publish(publish, metadata=NAMESPACE, timeout=60)  # type: ignore[arg-type, misc]
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(1)
        assert len(await heard) == READERS
        assert slowest < 20
        for call in calls:
            call.cancel()
    deadline = time.monotonic() + 60
    while (after := held(daemon)).exceeds(before, 20):
        assert time.monotonic() < deadline, f"before: {before}, after: {after}"
        await asyncio.sleep(0.5)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose root is a file system of 24 MiB."""
    daemon = Daemon()
    daemon.root.mkdir()
    mount.mount(Mount("tmpfs", "tmpfs", options=("size=24m",)), str(daemon.root))
    with daemon:
        yield daemon


def test_a_full_disk(small: Daemon) -> None:
    """A Write that finds no room says so; once it is aborted, there is room again."""
    big, fitting = bytes(32 << 20), os.urandom(4 << 20)

    def messages(ref: str, data: bytes) -> Iterator[content_pb2.WriteContentRequest]:
        for offset in range(0, len(data), 1 << 20):
            part = data[offset : offset + (1 << 20)]
            yield content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=ref, offset=offset, data=part)
        yield content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref=ref, offset=len(data), total=len(data))

    with connection(small) as channel:
        content = content_pb2_grpc.ContentStub(channel)

        def trouble() -> None:
            with pytest.raises(grpc.RpcError) as failed:
                list(content.Write(messages("big", big), metadata=NAMESPACE, timeout=30))
            assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, failed.value.details()
            assert "No space left" in failed.value.details()
            content.Abort(content_pb2.AbortRequest(ref="big"), metadata=NAMESPACE, timeout=30)

        leaks_nothing(small, trouble, rounds=6)
        answers = list(content.Write(messages("fits", fitting), metadata=NAMESPACE, timeout=30))
        assert answers[-1].digest == digest_of(fitting)
