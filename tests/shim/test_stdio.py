"""Standard streams with real containers."""

from __future__ import annotations

import asyncio
import os
import re
import select
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.wire import moorage_shim_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from support.shim import NAMESPACE, Node, ShimClient

LOGS = "moorage.shim.v1.Logs"


async def wait(client: ShimClient, id: str, exec_id: str = "") -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id, exec_id=exec_id))).exit_status)


def read_now(fd: int, seconds: float = 5.0, until: bytes = b"") -> bytes:
    """What comes, up to the end, or to `until`."""
    data = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(seconds * 1000):
        chunk = os.read(fd, 65536)
        data += chunk
        if not chunk or (until and until in data):
            break
    return data


@pytest.fixture
def fifo(node: Node) -> Path:
    path = node.folder / "out"
    os.mkfifo(path)
    return path


async def test_fifo(node: Node, fifo: Path) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    client = await node.task("c", "/bin/sh", "-c", "echo hello; echo world", stdout=str(fifo))
    assert await wait(client, "c") == 0
    assert read_now(fd) == b"hello\nworld\n"
    os.close(fd)


async def test_a_reader_may_leave_and_another_come(node: Node, fifo: Path) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = "for i in $(seq 1 40); do echo line $i; sleep 0.05; done"
    client = await node.task("c", "/bin/sh", "-c", command, stdout=str(fifo))
    data = await asyncio.to_thread(read_now, fd, until=b"line 5\n")
    os.close(fd)
    await asyncio.sleep(0.3)
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    data += await asyncio.to_thread(read_now, fd)
    os.close(fd)
    assert await wait(client, "c") == 0
    assert data.decode().splitlines() == [f"line {i}" for i in range(1, 41)]


async def test_output_waits_for_a_reader_that_comes_after_the_end(node: Node, fifo: Path) -> None:
    client = await node.task("c", "/bin/echo", "late", stdout=str(fifo))
    assert await wait(client, "c") == 0
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert await asyncio.to_thread(read_now, fd) == b"late\n"
    os.close(fd)


async def test_a_deletion_gives_a_late_reader_time(node: Node, fifo: Path) -> None:
    client = await node.task("c", "/bin/echo", "later", stdout=str(fifo))
    assert await wait(client, "c") == 0
    deleting = asyncio.create_task(client.call("Delete", pb.DeleteRequest(id="c")))
    await asyncio.sleep(0.1)
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert await asyncio.to_thread(read_now, fd) == b"later\n"
    os.close(fd)
    await deleting


async def test_no_reader_at_all_stops_nobody(node: Node, fifo: Path) -> None:
    """What does not fit in the FIFO is lost with it, but the exit is told and the task deleted."""
    client = await node.task("c", "/bin/sh", "-c", "yes | head -c 100000; sleep 600", stdout=str(fifo))
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    assert await wait(client, "c") == 137
    await client.call("Delete", pb.DeleteRequest(id="c"))


async def test_stdin_and_its_end(node: Node, fifo: Path) -> None:
    source = node.folder / "in"
    os.mkfifo(source)
    out = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    client = await node.task("c", "/bin/tr", "a-z", "A-Z", stdin=str(source), stdout=str(fifo))
    for word in (b"first ", b"second\n"):
        # Each client comes and goes: that is not the end of the input.
        fd = os.open(source, os.O_WRONLY)
        os.write(fd, word)
        os.close(fd)
        await asyncio.sleep(0.1)
    await client.call("CloseIO", pb.CloseIORequest(id="c", stdin=True))
    assert await wait(client, "c") == 0
    assert read_now(out) == b"FIRST SECOND\n"
    os.close(out)


async def test_terminal(node: Node, fifo: Path) -> None:
    source = node.folder / "in"
    os.mkfifo(source)
    out = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    stdin = os.open(source, os.O_RDWR)
    client = await node.task("c", "/bin/sh", stdin=str(source), stdout=str(fifo), terminal=True)
    await client.call("ResizePty", pb.ResizePtyRequest(id="c", width=123, height=45))
    os.write(stdin, b"stty size; exit 4\n")
    data = await asyncio.to_thread(read_now, out, until=b"45 123")
    assert b"45 123\r\n" in data + await asyncio.to_thread(read_now, out)
    assert await wait(client, "c") == 4
    os.close(stdin)
    os.close(out)
    assert list(node.bundles["c"].glob(".console*")) == []


async def test_terminal_of_an_exec(node: Node, fifo: Path) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    out = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = "test -t 0 && test -t 1 && echo a terminal"
    await node.exec(client, "c", "e", "/bin/sh", "-c", command, stdout=str(fifo), terminal=True)
    assert await wait(client, "c", "e") == 0
    assert await asyncio.to_thread(read_now, out) == b"a terminal\r\n"
    os.close(out)


async def test_the_terminal_s_output_goes_into_a_log(crun_node: Node) -> None:
    log = crun_node.folder / "log"
    client = await crun_node.task("c", "/bin/sh", "-c", "echo x; sleep 0.1", stdout=f"cri://{log}", terminal=True)
    assert await wait(client, "c") == 0
    assert re.fullmatch(r"\S+ stdout F x\r\n", log.read_bytes().decode())


async def test_file(node: Node) -> None:
    log = node.folder / "sub/log"
    both = f"file://{log}"
    client = await node.task("c", "/bin/sh", "-c", "echo out; echo err >&2", stdout=both, stderr=both)
    assert await wait(client, "c") == 0
    assert sorted(log.read_text().splitlines()) == ["err", "out"]


async def test_logging_program(node: Node) -> None:
    """It gets the output as 3 and 4, tells on 5 that it is ready, and may finish after the container."""
    out = node.folder / "out"
    program = node.folder / "logger"
    program.write_text(
        f"#!/bin/bash\nexec > {out}\necho $1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE\n"
        "exec 5>&-\nsed s/^/out:/ <&3\nsed s/^/err:/ <&4\n"
    )
    program.chmod(0o755)
    uri = f"binary://{program}?key=a%20value"
    client = await node.task("c", "/bin/sh", "-c", "echo x; echo y >&2", stdout=uri, stderr=uri)
    assert await wait(client, "c") == 0
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert out.read_text() == f"key a value c {NAMESPACE}\nout:x\nerr:y\n"


async def test_a_logging_program_that_never_gets_ready(crun_node: Node) -> None:
    program = crun_node.folder / "logger"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    crun_node.bundle("c", "/bin/sleep", "60")
    client = await crun_node.shim("c")
    with pytest.raises(FailedPrecondition, match="before it was ready"):
        await client.call("Create", crun_node.create("c", stdout=f"binary-v2://{program}"))


async def test_logs_are_reopened_without_a_gap(node: Node) -> None:
    """Under load: every line once, in order, across the files."""
    log = node.folder / "log"
    count = 200_000
    client = await node.task("c", "/bin/seq", "1", str(count), stdout=f"cri://{log}")
    waiting = asyncio.create_task(wait(client, "c"))
    files = 0
    while not waiting.done():
        if log.exists():
            log.rename(node.folder / f"log.{files}")
            files += 1
        await client.call("Reopen", moorage_shim_pb2.ReopenRequest(id="c"), LOGS)
        await asyncio.sleep(0.005)
    assert await waiting == 0
    parts = [node.folder / f"log.{i}" for i in range(files)] + ([log] if log.exists() else [])
    lines = b"".join(part.read_bytes() for part in parts).splitlines()
    assert len(parts) > 2
    assert [line.split(b" ", 3)[2] for line in lines] == [b"F"] * count
    assert [int(line.split(b" ", 3)[3]) for line in lines] == list(range(1, count + 1))


async def test_reopen_of_what_is_not_there(crun_node: Node) -> None:
    crun_node.bundle("c", "/bin/true")
    client = await crun_node.shim("c")
    with pytest.raises(NotFound):
        await client.call("Reopen", moorage_shim_pb2.ReopenRequest(id="c"), LOGS)


async def test_a_background_child_does_not_hold_up_an_exec(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    out = node.folder / "exec.log"
    await node.exec(client, "c", "e", "/bin/sh", "-c", "sleep 600 & echo done", stdout=f"file://{out}")
    assert await asyncio.wait_for(wait(client, "c", "e"), 5) == 0
    assert out.read_text() == "done\n"
    await asyncio.wait_for(client.call("Delete", pb.DeleteRequest(id="c", exec_id="e")), 5)
