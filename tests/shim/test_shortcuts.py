"""A start without a call of the OCI runtime, and where it is left to it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from moorage_api.errors import MoorageError
from moorage_api.runtime import Status
from moorage_api.wire import shim_v3_pb2 as pb
from support.shim import Node, ShimClient, kill, until


def state_of(node: Node, id: str) -> Path:
    """Where the OCI runtime keeps what it knows of a container."""
    return node.folder / "oci" / "testing" / id


async def created(node: Node, id: str, *args: str) -> tuple[ShimClient, int]:
    client = await node.shim(id)
    return client, int((await client.call("Create", node.create(id))).pid)


async def ended(client: ShimClient, id: str) -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id))).exit_status)


async def test_the_runtime_agrees(node: Node) -> None:
    """After a start it knows the container as running, and can delete it."""
    client = await node.task("c", "/bin/sh", "-c", "mkdir -p /x; exit 5")
    assert not (state_of(node, "c") / "exec.fifo").exists()
    assert await ended(client, "c") == 5
    assert state_of(node, "c").exists()
    command = [node.runtime, "--root", str(state_of(node, "c").parent), "state", "c"]
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(told.stdout)["status"] == "stopped"
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert not state_of(node, "c").exists()


async def test_nothing_runs_before_the_start(node: Node) -> None:
    log = node.folder / "log"
    node.bundle("c", "/bin/echo", "now")
    client = await node.shim("c")
    await client.call("Create", node.create("c", stdout=f"file://{log}"))
    await client.call("Exec", pb.ExecProcessRequest(id="c", exec_id="e", spec={"value": b"{}"}))
    assert log.read_text() == ""
    await client.call("Start", pb.StartRequest(id="c"))
    assert await ended(client, "c") == 0
    assert log.read_text() == "now\n"


async def test_one_that_is_dead_can_not_be_started(node: Node) -> None:
    node.bundle("c", "/bin/sleep", "600")
    client, pid = await created(node, "c")
    kill(pid)
    with pytest.raises(MoorageError):
        await client.call("Start", pb.StartRequest(id="c"))
    assert await ended(client, "c") == 137
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert not state_of(node, "c").exists()


async def test_hooks_are_left_to_the_runtime(node: Node) -> None:
    """Also one that ends without having read the state, which is more here than a pipe takes."""
    path = node.bundle("c", "/bin/sleep", "600")
    config = json.loads((path / "config.json").read_text())
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo called >> {node.folder}/hook"]}
    config["annotations"] = {"much": "x" * (1 << 17)}
    config["hooks"] = {name: [hook] for name in ("createRuntime", "poststart", "poststop")}
    (path / "config.json").write_text(json.dumps(config))
    client, pid = await created(node, "c")
    await client.call("Start", pb.StartRequest(id="c"))
    assert (node.folder / "hook").read_text() == "called\n" * 2
    assert (await client.call("State", pb.StateRequest(id="c"))).status == Status.RUNNING
    await until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert "SigIgn:\t0000000000000000\n" in Path(f"/proc/{pid}/status").read_text()
    kill(pid)
    await ended(client, "c")
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert (node.folder / "hook").read_text() == "called\n" * 3
