"""The library without `await`: complete beside the other, and the same in what it does."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from moorage import (
    ContainerOptions,
    attachment,
    blocking,
    client,
    container,
    containers,
    content,
    events,
    garbage,
    images,
    introspection,
    leases,
    namespaces,
    process,
    snapshots,
    tasks,
)
from moorage.attachment import Chunk
from moorage_api.errors import FailedPrecondition, NotFound
from support.daemon import Daemon

PAIRS = [
    (attachment.Attachment, blocking.Attachment, set()),
    (client.Client, blocking.Client, set()),
    # What hands descriptors of the process's own loop about stays there.
    (container.ContainerHandle, blocking.ContainerHandle, {"create_task", "create_attached", "join", "add_process"}),
    (containers.Containers, blocking.Containers, set()),
    (content.Content, blocking.Content, set()),
    (events.Events, blocking.Events, set()),
    (garbage.Garbage, blocking.Garbage, set()),
    (images.Images, blocking.Images, set()),
    (introspection.Introspection, blocking.Introspection, set()),
    (leases.Leases, blocking.Leases, set()),
    (namespaces.Namespaces, blocking.Namespaces, set()),
    (process.ProcessHandle, blocking.Process, {"run", "join", "run_captured"}),
    (snapshots.Snapshots, blocking.Snapshots, set()),
    (tasks.Tasks, blocking.Tasks, set()),
]


@pytest.mark.parametrize(("whole", "face", "without"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_method_is_there(whole: type, face: type, without: set[str]) -> None:
    names = {name for name, _ in inspect.getmembers(whole) if not name.startswith("_")}
    missing = names - {name for name in dir(face) if not name.startswith("_")} - without
    assert {name for name in missing if inspect.isfunction(getattr(whole, name))} <= {"fifos"}
    for name in names & set(vars(face)):
        function = getattr(vars(face)[name], "function", None)
        assert function is None or function is getattr(whole, name)


def test_pull_run_exec_and_errors(shared_daemon: Daemon, busybox: str) -> None:
    with blocking.connect(shared_daemon.address, "plain") as one:
        assert one.pull(busybox).name == busybox
        assert one.run(busybox, ["cat"], input=b"x" * 100_000).stdout == b"x" * 100_000
        made = one.create(busybox, ContainerOptions(args=["sh", "-c", "echo begun; sleep 100"]))
        made.start()
        assert made.exec(["sh", "-c", "exit 4"]).exit_status == 4
        with made.spawn(["sh", "-c", "echo out; echo error >&2; exit 5"]) as streams:
            assert sorted(streams, key=lambda chunk: chunk.stream) == [
                Chunk("stderr", b"error\n"),
                Chunk("stdout", b"out\n"),
            ]
            assert streams.wait().status == 5
            with pytest.raises(FailedPrecondition, match="no input"):
                streams.write(b"x")
        following = made.logs(follow=True)
        assert next(following).text == b"begun"
        following.close()
        with pytest.raises(FailedPrecondition):
            made.remove()
        made.remove(force=True)
        with pytest.raises(NotFound):
            made.state()
        with one.leased() as leased:
            assert leased.content.read_all(leased.content.write(b"kept")) == b"kept"
        assert (one.leases.list(), one.in_namespace("other").images.list()) == ([], [])


def test_threads_share_a_client(shared_daemon: Daemon, busybox: str) -> None:
    with blocking.connect(shared_daemon.address, "threads") as one:
        one.pull(busybox)
        outputs: list[bytes] = []
        workers = [
            threading.Thread(target=lambda n=n: outputs.append(one.run(busybox, ["echo", str(n)]).stdout))  # type: ignore[misc]
            for n in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(outputs) == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_an_interrupt_cancels_what_is_under_way(shared_daemon: Daemon, busybox: str) -> None:
    program = f"""
from moorage import blocking
with blocking.connect({shared_daemon.address!r}, "interrupted") as client:
    client.pull({busybox!r})
    print("ready", flush=True)
    try:
        client.run({busybox!r}, ["sleep", "1000"])
    except KeyboardInterrupt:
        print(len(client.containers.list()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        with blocking.connect(shared_daemon.address, "interrupted") as one:
            while not one.tasks.list():
                assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.stdout.read() == "0\n"
        assert running.wait(timeout=30) == 0


async def test_attachments_end_with_an_error_where_the_process_cannot_be_started(
    shared_daemon: Daemon, busybox: str
) -> None:
    async with client.connect(shared_daemon.address, "wrong") as one:
        await one.pull(busybox)
        made = await one.create(busybox, ContainerOptions(args=["no-such-program"]))
        with pytest.raises(Exception, match="no-such-program"):
            async with made.attach(start=True) as streams:
                assert isinstance(streams, AsyncIterator)
        await made.remove(force=True)
