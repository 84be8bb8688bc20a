"""The ttrpc client against the ttrpc server, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from moorage_api.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from moorage_api.rpc import Call, Service
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime.stubs import SandboxStub, TaskStub
from mooraged.runtime.ttrpc_client import TtrpcClient, socket_path
from mooraged.runtime.ttrpc_server import TtrpcServer


class Shim:
    """A task service that answers, waits, fails."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.namespaces: list[str] = []

    async def State(self, request: pb.StateRequest, call: Call) -> pb.StateResponse:
        self.namespaces.append(call.namespace)
        return pb.StateResponse(id=request.id, pid=7)

    async def Wait(self, request: pb.WaitRequest, call: Call) -> pb.WaitResponse:
        await self.release.wait()
        return pb.WaitResponse(exit_status=3)

    async def Kill(self, request: pb.KillRequest, call: Call) -> Empty:
        raise NotFound("nobody to kill")

    async def Pause(self, request: pb.PauseRequest, call: Call) -> Empty:
        raise ValueError("a defect")


@pytest.fixture
def shim() -> Shim:
    return Shim()


@pytest.fixture
async def path(shim: Shim, short_tmp: Path) -> AsyncIterator[str]:
    server = TtrpcServer([Service(pb.DESCRIPTOR.services_by_name["Task"], shim)])
    path = str(short_tmp / "s")
    await server.start(path)
    yield path
    await server.close()
    assert not os.path.exists(path)


@pytest.fixture
async def client(path: str) -> AsyncIterator[TtrpcClient]:
    client = await TtrpcClient.connect(f"unix://{path}", lambda reason: None, 5)
    yield client
    client.close()


async def test_calls_overtake_one_another(client: TtrpcClient, shim: Shim) -> None:
    task = TaskStub(client, "blue")
    waiting = [asyncio.create_task(task.Wait(pb.WaitRequest(id=str(i)), timeout=None)) for i in range(50)]
    states = await asyncio.gather(*(task.State(pb.StateRequest(id=str(i)), timeout=5) for i in range(50)))
    assert [state.id for state in states] == [str(i) for i in range(50)]
    assert not any(wait.done() for wait in waiting)
    shim.release.set()
    assert {answer.exit_status for answer in await asyncio.gather(*waiting)} == {3}
    assert set(shim.namespaces) == {"blue"}


async def test_errors_keep_their_class_and_message(client: TtrpcClient, caplog: pytest.LogCaptureFixture) -> None:
    task = TaskStub(client, "blue")
    with pytest.raises(NotFound, match="nobody to kill"):
        await task.Kill(pb.KillRequest(id="a"), timeout=5)
    with pytest.raises(Internal):
        await task.Pause(pb.PauseRequest(id="a"), timeout=5)
    assert "a defect" in caplog.text
    with pytest.raises(Unimplemented, match="StopSandbox"):
        await SandboxStub(client, "blue").StopSandbox(SandboxStub.StopSandbox.request(sandbox_id="a"), timeout=5)
    with pytest.raises(FailedPrecondition, match="namespace"):
        await client.call(task.service, "State", b"", timeout=5)
    with pytest.raises(InvalidArgument, match="StateRequest"):
        await client.call(task.service, "State", b"\xff\xff", timeout=5, metadata=task.metadata)


async def test_a_late_answer_is_dropped(client: TtrpcClient, shim: Shim) -> None:
    task = TaskStub(client, "blue")
    with pytest.raises(DeadlineExceeded, match=r"did not answer Task.Wait within 0.05 s"):
        await task.Wait(pb.WaitRequest(id="a"), timeout=0.05)
    shim.release.set()
    assert (await task.State(pb.StateRequest(id="b"), timeout=5)).id == "b"


async def test_the_end_of_the_connection_fails_all_calls(path: str, shim: Shim) -> None:
    reasons: list[str] = []
    client = await TtrpcClient.connect(f"unix://{path}", reasons.append, 5)
    waiting = [client.submit("containerd.task.v3.Task", "Wait", b"") for _ in range(3)]
    await asyncio.sleep(0.05)
    client._transport.abort()  # type: ignore[union-attr]
    for answer in waiting:
        with pytest.raises(Unavailable):
            await answer
    with pytest.raises(Unavailable):
        await client.call("containerd.task.v3.Task", "State", b"", timeout=1)
    assert len(reasons) == 1


async def test_closing_is_no_death(path: str) -> None:
    reasons: list[str] = []
    client = await TtrpcClient.connect(f"unix://{path}", reasons.append, 5)
    answer = client.submit("containerd.task.v3.Task", "Wait", b"")
    client.close()
    with pytest.raises(Unavailable):
        await answer
    await asyncio.sleep(0.05)
    assert reasons == []


async def test_a_peer_that_breaks_the_protocol(short_tmp: Path) -> None:
    ended = asyncio.Event()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\0\0\0\0" + b"\0\0\0\1" + b"\x09\0")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_unix_server(babble, short_tmp / "s")
    reasons: list[str] = []
    client = await TtrpcClient.connect(f"unix://{short_tmp}/s", reasons.append, 5)
    with pytest.raises(Unavailable, match="protocol"):
        await client.call("a", "b", b"", timeout=5)
    assert len(reasons) == 1
    await ended.wait()
    server.close()
    await server.wait_closed()


async def test_nobody_listens(short_tmp: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await TtrpcClient.connect(f"unix://{short_tmp}/none", lambda reason: None, 1)


async def test_the_socket_is_private_and_replaces_a_dead_one(path: str, shim: Shim) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again = TtrpcServer([Service(pb.DESCRIPTOR.services_by_name["Task"], shim)])
    await again.start(path)
    await again.close()


@pytest.mark.parametrize(
    ("address", "path"),
    [("unix:///run/s/1", "/run/s/1"), ("/run/s/1", "/run/s/1"), ("containerd-shim/1", "\0containerd-shim/1")],
)
def test_addresses(address: str, path: str) -> None:
    assert socket_path(address) == path


def test_addresses_of_other_kinds() -> None:
    with pytest.raises(Unimplemented):
        socket_path("vsock://3:1024")
