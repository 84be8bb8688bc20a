"""Further readers of a container's output."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.wire import moorage_shim_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim.stdio import follower
from support.shim import Node, ShimClient

STREAMS = "moorage.shim.v1.Streams"
SECONDS = 20.0


class Reader:
    """One who attaches: a FIFO, read without waiting."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.data = b""

    async def until(self, text: bytes = b"") -> None:
        """Read until the text has come; without one, to the end."""
        deadline = time.monotonic() + SECONDS
        while not text or text not in self.data:
            assert time.monotonic() < deadline, self.data[-200:]
            try:
                data = os.read(self.fd, 1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            if not data:
                assert not text, self.data[-200:]
                return
            self.data += data

    def leave(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@pytest.fixture
def readers(crun_node: Node) -> Iterator[list[Reader]]:
    made = [Reader(crun_node.folder / f"reader{number}") for number in range(3)]
    yield made
    for reader in made:
        reader.leave()


async def attach(
    client: ShimClient, stdout: str = "", stderr: str = "", id: str = "c", *, patient: bool = False
) -> None:
    request = moorage_shim_pb2.AttachRequest(id=id, stdout=stdout, stderr=stderr, patient=patient)
    await client.call("Attach", request, STREAMS)


async def wait(client: ShimClient, id: str) -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id))).exit_status)


async def settle() -> None:
    """Longer than it takes the shim to rest."""
    await asyncio.sleep(0.6)


@pytest.fixture
def gate(crun_node: Node) -> Iterator[int]:
    """The container's input."""
    path = crun_node.folder / "in"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


SCRIPT = "while read word; do echo out $word; echo err $word >&2; done"


async def test_readers_come_and_go(crun_node: Node, gate: int, readers: list[Reader]) -> None:
    """Each sees what is written while it is there; the log has all. In between, the shim rests."""
    log = crun_node.folder / "log"
    client = await crun_node.task(
        "c", "/bin/sh", "-c", SCRIPT, stdin=str(crun_node.folder / "in"), stdout=f"cri://{log}", stderr=f"cri://{log}"
    )
    first, errors, second = readers
    await attach(client, first.path, errors.path)
    await settle()
    os.write(gate, b"1\n")
    await first.until(b"out 1\n")
    await errors.until(b"err 1\n")
    await attach(client, second.path)
    os.write(gate, b"2\n")
    await first.until(b"out 2\n")
    await second.until(b"out 2\n")
    first.leave()
    await settle()
    os.write(gate, b"3\n")
    await second.until(b"out 3\n")
    await client.call("CloseIO", pb.CloseIORequest(id="c", stdin=True))
    os.close(os.open(crun_node.folder / "in", os.O_RDWR))
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    await second.until()
    await errors.until()
    assert second.data == b"out 2\nout 3\n"
    assert errors.data == b"err 1\nerr 2\nerr 3\n"
    await wait(client, "c")
    words = [line.split(" ", 3)[1:] for line in log.read_text().splitlines()]
    assert sorted(words) == sorted([f"std{name}", "F", f"{name} {n}"] for n in (1, 2, 3) for name in ("out", "err"))


async def test_nothing_is_lost_to_a_slow_reader(crun_node: Node, gate: int, readers: list[Reader]) -> None:
    log = crun_node.folder / "log"
    command = "read word; seq 1 300000"
    client = await crun_node.task(
        "c", "/bin/sh", "-c", command, stdin=str(crun_node.folder / "in"), stdout=f"cri://{log}"
    )
    reader = readers[0]
    await attach(client, reader.path)
    os.write(gate, b"go\n")
    await asyncio.sleep(1)
    # It has not read yet, so the log, too, has no more than a little.
    assert log.stat().st_size < 2 << 20
    await reader.until()
    assert reader.data == b"".join(b"%d\n" % number for number in range(1, 300001))
    assert await wait(client, "c") == 0
    assert log.read_bytes().count(b"\n") == 300000


async def test_a_reader_that_stands_still_is_dropped_unless_it_asks_to_be_waited_for(
    crun_node: Node, gate: int, readers: list[Reader]
) -> None:
    log = crun_node.folder / "log"
    client = await crun_node.task(
        "c", "/bin/sh", "-c", "read word; seq 1 300000", stdin=str(crun_node.folder / "in"), stdout=f"cri://{log}"
    )
    plain, patient, _ = readers
    await attach(client, plain.path)
    await attach(client, patient.path, patient=True)
    os.write(gate, b"go\n")
    await asyncio.sleep(follower.PATIENCE + 1)
    await patient.until()
    assert await wait(client, "c") == 0
    assert patient.data == b"".join(b"%d\n" % number for number in range(1, 300001))
    assert log.read_bytes().count(b"\n") == 300000
    await plain.until()
    assert len(plain.data) < 1 << 20


async def test_a_terminal(crun_node: Node, gate: int, readers: list[Reader]) -> None:
    client = await crun_node.task(
        "c", "/bin/sh", stdin=str(crun_node.folder / "in"), stdout="file:///dev/null", terminal=True
    )
    await attach(client, readers[0].path)
    os.write(gate, b"echo $((6*7)); exit\n")
    await readers[0].until()
    assert b"42" in readers[0].data
    with pytest.raises(FailedPrecondition):
        await attach(client, stderr=readers[1].path)


async def test_what_cannot_be_attached_to(crun_node: Node, readers: list[Reader]) -> None:
    client = await crun_node.task("c", "/bin/sleep", "1000")
    with pytest.raises(FailedPrecondition, match="goes nowhere"):
        await attach(client, readers[0].path)
    with pytest.raises(NotFound):
        await attach(client, readers[0].path, id="nothing")
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    await wait(client, "c")
    with pytest.raises(FailedPrecondition, match="not running"):
        await attach(client, readers[0].path)
