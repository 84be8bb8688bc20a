"""Shims that die, hang or lie: the daemon stays well and says what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from moorage_api.errors import DeadlineExceeded, MoorageError, NotFound, Unavailable
from moorage_api.oci import spec as oci
from moorage_api.runtime import Status
from moorage_api.types import TypedValue
from mooraged.runtime.bundle import Bundle
from support.leftovers import tagged_processes
from support.runtime import NAMESPACE, World


def the_shim(world: World, id: str) -> int:
    """The pid of a task's shim, even before that of another's is known to the daemon; not of the command that began it."""
    endpoint = Bundle(world.task_folder, NAMESPACE, id).endpoint()
    if endpoint is not None and endpoint.bootstrap.pid:
        return endpoint.bootstrap.pid
    commands = {pid: command for pid, command in tagged_processes(world.tag).items() if "containerd-shim" in command}
    (pid,) = [pid for pid, command in commands.items() if not command.endswith(" start")]
    return pid


async def running(world: World, id: str) -> str:
    world.container(id, "sleep", "1000")
    await world.tasks.create(id)
    await world.tasks.start(id)
    return id


async def test_a_killed_shim_is_noticed_at_once(world: World) -> None:
    id = await running(world, "shimless")
    await world.until(lambda: "/tasks/start" in world.topics(id), "the start is told")
    waiting = asyncio.create_task(world.tasks.wait(id))
    await asyncio.sleep(0)
    os.kill(world.shim_pid(id), signal.SIGKILL)
    exit = await asyncio.wait_for(waiting, 3)
    assert exit.status == 137
    assert world.tasks.get(id).status is Status.STOPPED
    await world.until(lambda: "/tasks/exit" in world.topics(id), "the exit is told")
    with pytest.raises(NotFound, match="its shim is gone"):
        await world.tasks.kill(id, signal.SIGTERM)
    assert await world.tasks.delete(id) == exit
    assert world.tasks.list() == []
    assert world.topics(id) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    await world.until(lambda: not world.leftovers(), "all is removed")


async def test_the_name_is_free_after_a_shim_died(world: World) -> None:
    id = await running(world, "again")
    os.kill(world.shim_pid(id), signal.SIGKILL)
    await world.tasks.wait(id)
    await world.tasks.delete(id)
    await running(world, "again")
    await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.wait(id)
    await world.tasks.delete(id)


async def test_a_hung_shim_hangs_nothing_else(world: World) -> None:
    await world.restart(call_timeout=0.5)
    hung, well = await running(world, "hung"), await running(world, "well")
    with world.hung(hung):
        before = time.monotonic()
        assert [task.container_id for task in world.tasks.list()] == ["hung", "well"]
        assert time.monotonic() - before < 0.05
        with pytest.raises(DeadlineExceeded, match="Kill"):
            await world.tasks.kill(hung, signal.SIGTERM)
        await world.tasks.kill(well, signal.SIGKILL)
        await world.tasks.wait(well)
        await world.tasks.delete(well)
    await world.tasks.kill(hung, signal.SIGKILL)
    await world.tasks.wait(hung)
    await world.tasks.delete(hung)


async def test_a_hung_shim_holds_up_only_the_name_of_an_exec_that_has_ended(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    id = await running(world, "hung")
    await world.tasks.exec(id, "one", oci.encode(oci.default_spec(args=("true",))["process"], oci.PROCESS_URL))
    await world.tasks.start(id, "one")
    await world.tasks.wait(id, "one")
    await world.restart(call_timeout=0.5)
    exit = await world.tasks.wait(id, "one")
    with world.hung(id):
        assert await world.tasks.delete(id, "one") == exit
        with pytest.raises(DeadlineExceeded, match="Exec"):
            await world.tasks.exec(id, "one", TypedValue(oci.PROCESS_URL, b"{}"))
        assert "process one of task hung is left in its shim" in caplog.text
    await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.wait(id)
    await world.tasks.delete(id)


async def test_a_shim_that_dies_during_a_creation(world: World) -> None:
    id = world.container("interrupted", "true")
    creating = asyncio.create_task(world.tasks.create(id))
    await world.until((world.task_folder / NAMESPACE / id / "bootstrap.json").exists, "a shim")
    os.kill(the_shim(world, id), signal.SIGKILL)
    with pytest.raises(MoorageError):
        await creating
    assert world.tasks.list() == []
    await world.until(lambda: not world.leftovers(), "all is taken back")


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("echo no luck >&2; exit 4", Unavailable, r"start the shim: .*failed \(4\): no luck"),
        ("exit 0", Unavailable, "start the shim: .*no address"),
        ('echo \'{"version": 9, "address": "unix:///x"}\'', MoorageError, "start the shim: .*version 9"),
        ("echo unix:///nowhere/at/all", Unavailable, "start the shim: .*cannot be reached"),
        ("sleep 60", DeadlineExceeded, "start the shim: .*longer than 1 s"),
    ],
)
async def test_a_shim_binary_that_does_not_do(
    world: World, tmp_path: Path, script: str, error: type[MoorageError], message: str
) -> None:
    await world.restart(create_timeout=1.0, call_timeout=1.0)
    binary = tmp_path / "containerd-shim-odd-v2"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    id = world.container("odd", "true", runtime=str(binary))
    with pytest.raises(error, match=message):
        await world.tasks.create(id)
    assert world.tasks.list() == []
    assert world.leftovers() == []
