"""Runtimes that are started when an exec is added, and wait for its start."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim import ahead
from support.shim import Node, ShimClient, kill, process_spec, until, workers


def waiting(node: Node) -> list[int]:
    """The OCI runtimes that have been called to add a process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"exec" in words and any(word.startswith(os.fsencode(node.folder)) for word in words):
            found.append(int(entry.name))
    return found


async def added(node: Node, client: ShimClient, exec_id: str, *args: str, **fields: str) -> None:
    """Add a process to the container `c`."""
    request = pb.ExecProcessRequest(id="c", exec_id=exec_id, **fields)
    request.spec.value = json.dumps(process_spec(args)).encode()
    await client.call("Exec", request)


async def test_nothing_runs_and_nothing_is_opened_before_the_start(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    client = await node.task("c", "/bin/sleep", "600")
    await added(node, client, "e", "/bin/echo", "now", stdout=f"file://{out}")
    await until(lambda: waiting(node))
    assert not out.exists()
    assert len((await client.call("Pids", pb.PidsRequest(id="c"))).processes) == 1
    await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    assert (await client.call("Wait", pb.WaitRequest(id="c", exec_id="e"))).exit_status == 0
    assert out.read_text() == "now\n"


async def test_one_that_is_not_started_is_given_up_and_can_be_started_later(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    client = await node.task("c", "/bin/sleep", "600")
    await added(node, client, "e", "/bin/echo", "late", stdout=f"file://{out}")
    await until(lambda: waiting(node))
    await until(lambda: not waiting(node))
    await until(lambda: not workers(node.shims[0].pid))
    await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    assert (await client.call("Wait", pb.WaitRequest(id="c", exec_id="e"))).exit_status == 0
    assert out.read_text() == "late\n"


async def test_one_that_is_deleted_leaves_nothing(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "600")
    await client.call("Connect", pb.ConnectRequest(id="c"))
    (worker,) = workers(crun_node.shims[0].pid)
    before = sorted(os.listdir(f"/proc/{worker}/fd"))
    for _ in range(3):
        await added(crun_node, client, "e", "/bin/id", stdout="/nowhere", stderr="/nowhere")
        await client.call("Delete", pb.DeleteRequest(id="c", exec_id="e"))
    assert waiting(crun_node) == []
    # What watches a runtime is closed when the keeper, too, has told its end.
    await until(lambda: sorted(os.listdir(f"/proc/{worker}/fd")) == before)


async def test_who_waits_for_one_that_is_deleted_is_told(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    await added(node, client, "e", "/bin/id")
    waits = asyncio.create_task(client.call("Wait", pb.WaitRequest(id="c", exec_id="e")))
    await asyncio.sleep(0)
    await client.call("Delete", pb.DeleteRequest(id="c", exec_id="e"))
    with pytest.raises(NotFound, match="deleted"):
        await waits


async def test_with_the_container_they_go_too(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    await added(node, client, "e", "/bin/id")
    kill((await client.call("State", pb.StateRequest(id="c"))).pid)
    await client.call("Wait", pb.WaitRequest(id="c"))
    with pytest.raises(FailedPrecondition):
        await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert waiting(node) == []
    with pytest.raises(NotFound):
        await client.call("State", pb.StateRequest(id="c"))


async def test_a_paused_container_takes_none(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    await added(node, client, "e", "/bin/id")
    await client.call("Pause", pb.PauseRequest(id="c"))
    with pytest.raises(MoorageError):
        await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    await client.call("Resume", pb.ResumeRequest(id="c"))
    await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    assert (await client.call("Wait", pb.WaitRequest(id="c", exec_id="e"))).exit_status == 0


async def test_what_is_wrong_with_one_is_told_at_its_start(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "600")
    for exec_id, value in (("text", b"{"), ("list", b"[]")):
        request = pb.ExecProcessRequest(id="c", exec_id=exec_id)
        request.spec.value = value
        await client.call("Exec", request)
        with pytest.raises(MoorageError):
            await client.call("Start", pb.StartRequest(id="c", exec_id=exec_id))
    await added(crun_node, client, "missing", "/bin/nothing")
    with pytest.raises(MoorageError, match="nothing"):
        await client.call("Start", pb.StartRequest(id="c", exec_id="missing"))
    await added(crun_node, client, "closed", "/bin/id", stdout="/nowhere/fifo")
    with pytest.raises(MoorageError, match="nowhere"):
        await client.call("Start", pb.StartRequest(id="c", exec_id="closed"))
    assert waiting(crun_node) == []


async def run_one(node: Node, client: ShimClient, exec_id: str) -> None:
    """Add a process, wait for its end, and delete it."""
    await added(node, client, exec_id, "/bin/id")
    await client.call("Start", pb.StartRequest(id="c", exec_id=exec_id))
    await client.call("Wait", pb.WaitRequest(id="c", exec_id=exec_id))
    await client.call("Delete", pb.DeleteRequest(id="c", exec_id=exec_id))


async def row(node: Node, client: ShimClient) -> int:
    """Run processes, one after the other, until one more is expected; returns its runtime. A machine that is busy may take
    too long between two, and then it takes more of them."""
    while True:
        await run_one(node, client, "row")
        if found := waiting(node):
            return found[0]


async def test_a_few_are_no_row(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    for number in range(ahead._ROW - 1):
        await run_one(node, client, f"e{number}")
        assert waiting(node) == []


async def test_after_a_row_one_waits_for_the_next(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    while True:
        runtime = await row(node, client)
        assert len((await client.call("Pids", pb.PidsRequest(id="c"))).processes) == 1
        await added(node, client, "next", "/bin/sh", "-c", "exit 7")
        if waiting(node) == [runtime]:
            break
        # It was given up meanwhile, on a machine that is busy.
        await client.call("Delete", pb.DeleteRequest(id="c", exec_id="next"))
    await client.call("Start", pb.StartRequest(id="c", exec_id="next"))
    assert (await client.call("Wait", pb.WaitRequest(id="c", exec_id="next"))).exit_status == 7
    await until(lambda: runtime not in waiting(node))


async def test_one_that_no_process_follows_is_given_up(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    await row(node, client)
    await until(lambda: not waiting(node))
    await until(lambda: not workers(node.shims[0].pid))


async def test_a_process_of_another_form_gets_its_own(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    client = await node.task("c", "/bin/sleep", "600")
    runtime = await row(node, client)
    await added(node, client, "e", "/bin/echo", "other", stdout=f"file://{out}")
    assert waiting(node) != [runtime]
    await client.call("Start", pb.StartRequest(id="c", exec_id="e"))
    await client.call("Wait", pb.WaitRequest(id="c", exec_id="e"))
    assert out.read_text() == "other\n"


async def test_with_the_container_the_next_one_goes(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "600")
    runtime = await row(node, client)
    kill((await client.call("State", pb.StateRequest(id="c"))).pid)
    await client.call("Wait", pb.WaitRequest(id="c"))
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert runtime not in waiting(node)


async def test_many_at_once_are_not_all_started_ahead(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "600")
    ids = [f"e{number}" for number in range(ahead._MOST + 3)]
    for exec_id in ids:
        await added(crun_node, client, exec_id, "/bin/id")
    assert len(waiting(crun_node)) <= ahead._MOST
    for exec_id in ids:
        await client.call("Start", pb.StartRequest(id="c", exec_id=exec_id))
    answers = [await client.call("Wait", pb.WaitRequest(id="c", exec_id=exec_id)) for exec_id in ids]
    assert {answer.exit_status for answer in answers} == {0}
