"""Rest and work: a shim at which nothing happens is a keeper alone, and nobody can tell from outside."""

from __future__ import annotations

import asyncio
import json
import os
import select
import time
from pathlib import Path

import pytest

from moorage_api.runtime import Status
from moorage_api.wire import moorage_shim_pb2
from moorage_api.wire import runtime_sandbox_pb2 as sb
from moorage_api.wire import shim_v3_pb2 as pb
from support.measure import pss
from support.shim import Node, ShimClient, kill, workers

SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"


async def rest(node: Node) -> int:
    """Wait until the first shim rests; returns its pid."""
    shim = node.shims[0].pid
    async with asyncio.timeout(20):
        while workers(shim):
            await asyncio.sleep(0.02)
    return shim


async def wait(client: ShimClient, id: str, exec_id: str = "") -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id, exec_id=exec_id))).exit_status)


async def test_state_survives_a_rest(node: Node) -> None:
    log = node.folder / "log"
    client = await node.task("c", "/bin/sh", "-c", "sleep 600", stdout=f"cri://{log}")
    pid = await node.exec(client, "c", "e", "/bin/sleep", "600")
    await client.call("Exec", pb.ExecProcessRequest(id="c", exec_id="never", spec={"value": b"{}"}))
    await rest(node)
    state = await client.call("State", pb.StateRequest(id="c", exec_id="e"))
    assert (state.pid, state.status) == (pid, Status.RUNNING)
    assert (await client.call("State", pb.StateRequest(id="c", exec_id="never"))).status == Status.CREATED
    assert (await client.call("Connect", pb.ConnectRequest(id="c"))).shim_pid == node.shims[0].pid
    await rest(node)
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    assert await wait(client, "c") == 137
    await client.call("Delete", pb.DeleteRequest(id="c"))
    await node.daemon.event("/tasks/delete")


async def test_who_waits_is_answered_by_another_worker(node: Node) -> None:
    client = await node.task("c", "/bin/sh", "-c", "sleep 2; exit 6")
    waiting = [asyncio.create_task(wait(client, "c")) for _ in range(3)]
    shim = await rest(node)
    assert not any(each.done() for each in waiting)
    assert await asyncio.gather(*waiting) == [6, 6, 6]
    assert (await node.daemon.event("/tasks/exit")).exit_status == 6
    assert json.loads((node.bundles["c"] / "exit.json").read_text())["status"] == 6
    assert Path(f"/proc/{shim}").exists()


async def test_output_wakes_the_shim_and_none_is_lost(node: Node) -> None:
    log = node.folder / "log"
    command = 'for i in $(seq 1 6); do echo -n line; sleep 0.7; echo " $i"; done'
    client = await node.task("c", "/bin/sh", "-c", command, stdout=f"cri://{log}")
    waiting = asyncio.create_task(wait(client, "c"))
    rests = 0
    while not waiting.done():
        rests += not workers(node.shims[0].pid)
        await asyncio.sleep(0.1)
    assert await waiting == 0
    assert rests
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == [
        f"stdout F line {i}" for i in range(1, 7)
    ]


async def test_fifo_terminal_and_input_survive_a_rest(node: Node) -> None:
    out, source = node.folder / "out", node.folder / "in"
    os.mkfifo(out)
    os.mkfifo(source)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    client = await node.task("c", "/bin/sh", stdin=str(source), stdout=str(out), terminal=True)
    await rest(node)
    await client.call("ResizePty", pb.ResizePtyRequest(id="c", width=77, height=33))
    await rest(node)
    writer = os.open(source, os.O_WRONLY)
    os.write(writer, b"stty size; exit 2\n")
    assert await wait(client, "c") == 2
    os.close(writer)
    data = b""
    while select.select([reader], [], [], 5)[0] and (chunk := os.read(reader, 65536)):
        data += chunk
    os.close(reader)
    assert b"33 77\r\n" in data


async def test_the_end_of_the_input_survives_a_rest(node: Node) -> None:
    source = node.folder / "in"
    os.mkfifo(source)
    log = node.folder / "log"
    client = await node.task("c", "/bin/cat", stdin=str(source), stdout=f"file://{log}")
    await rest(node)
    writer = os.open(source, os.O_WRONLY)
    os.write(writer, b"text")
    await rest(node)
    os.close(writer)
    await client.call("CloseIO", pb.CloseIORequest(id="c", stdin=True))
    assert await wait(client, "c") == 0
    assert log.read_text() == "text"


async def test_reopen_after_a_rest(crun_node: Node) -> None:
    log = crun_node.folder / "log"
    client = await crun_node.task("c", "/bin/sh", "-c", "echo 1; sleep 2; echo 2", stdout=f"cri://{log}")
    await rest(crun_node)
    log.rename(crun_node.folder / "log.1")
    await client.call("Reopen", moorage_shim_pb2.ReopenRequest(id="c"), "moorage.shim.v1.Logs")
    assert await wait(client, "c") == 0
    assert (crun_node.folder / "log.1").read_text().endswith("F 1\n")
    assert log.read_text().endswith("F 2\n")


async def test_a_pod_rests_too(crun_node: Node) -> None:
    crun_node.bundle("pod", "/bin/true")
    path = crun_node.folder / "pod"
    path.mkdir()
    client = await crun_node.shim("pod")
    request = sb.CreateSandboxRequest(sandbox_id="pod", bundle_path=str(path))
    request.options.Pack(moorage_shim_pb2.SandboxOptions(namespaces=["network", "pid"], path=str(path)))
    await client.call("CreateSandbox", request, SANDBOX)
    await client.call("StartSandbox", sb.StartSandboxRequest(sandbox_id="pod"), SANDBOX)
    waiting = asyncio.create_task(client.call("WaitSandbox", sb.WaitSandboxRequest(sandbox_id="pod"), SANDBOX))
    await rest(crun_node)
    status = await client.call("SandboxStatus", sb.SandboxStatusRequest(sandbox_id="pod"), SANDBOX)
    assert status.state == "SANDBOX_READY"
    await rest(crun_node)
    os.kill(status.pid, 9)
    assert (await waiting).exit_status == 137


async def test_rests_that_are_short_become_rarer(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "600")
    lengths = []
    for _ in range(3):
        await client.call("Connect", pb.ConnectRequest(id="c"))
        started = time.monotonic()
        await rest(crun_node)
        lengths.append(time.monotonic() - started)
    assert lengths[2] > 1.0


@pytest.mark.parametrize("victim", ["keeper", "worker"])
async def test_keeper_and_worker_die_together(crun_node: Node, victim: str) -> None:
    client = await crun_node.task("c", "/bin/sleep", "600")
    shim = crun_node.shims[0].pid
    await client.call("Connect", pb.ConnectRequest(id="c"))
    (worker,) = workers(shim)
    kill(shim if victim == "keeper" else worker)
    async with asyncio.timeout(10):
        while Path(f"/proc/{shim}").exists() or Path(f"/proc/{worker}").exists():
            await asyncio.sleep(0.02)


async def test_what_a_resting_shim_costs(crun_node: Node) -> None:
    """Proportional set size in KiB, of twenty shims with a container each."""
    for i in range(20):
        await crun_node.task(f"c{i}", "/bin/sleep", "600")
    async with asyncio.timeout(20):
        while any(workers(shim.pid) for shim in crun_node.shims):
            await asyncio.sleep(0.1)
    each = [pss(shim.pid) >> 10 for shim in crun_node.shims]
    print(f"PSS of a shim: {sum(each) / len(each):.0f} KiB")
    assert max(each) < 2048
