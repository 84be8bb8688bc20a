"""A daemon that ends, by a signal or a crash, and the next one over the same state."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import pytest

from moorage_api.errors import NotFound
from moorage_api.events import Envelope
from moorage_api.runtime import Status
from mooraged.runtime.bundle import Bundle
from mooraged.runtime.recovery import Recovery
from mooraged.runtime.runtime import Runtime
from support.measure import heeds
from support.runtime import NAMESPACE, World


async def running(world: World, id: str, *args: str) -> str:
    world.container(id, *(args or ("sleep", "1000")))
    await world.tasks.create(id)
    await world.tasks.start(id)
    return id


def bundle(world: World, id: str) -> Bundle:
    return Bundle(world.task_folder, NAMESPACE, id)


async def end(world: World, id: str) -> None:
    await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.wait(id)
    await world.tasks.delete(id)


async def test_a_running_task_runs_on(world: World) -> None:
    id = await running(world, "on")
    before = world.tasks.get(id)
    await world.restart()
    assert world.tasks.get(id) == before
    await end(world, id)
    await world.until(lambda: "/tasks/delete" in world.topics(id), "events come to the new daemon")
    assert world.leftovers() == []


async def test_an_exit_while_the_daemon_is_away_is_told_once(world: World) -> None:
    id = await running(world, "away", "sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done")
    pid = world.tasks.get(id).pid
    await world.until(lambda: heeds(pid, signal.SIGUSR1), "the trap is set")
    await world.stop()
    os.kill(pid, signal.SIGUSR1)
    await world.until(lambda: not os.path.exists(f"/proc/{pid}"), "it ends", 20)
    await world.start()
    exit = await asyncio.wait_for(world.tasks.wait(id), 1)
    assert exit.status == 5
    await world.until(lambda: "/tasks/exit" in world.topics(id), "the exit is told")
    await world.restart()
    assert (await world.tasks.wait(id)).status == 5
    await asyncio.sleep(2.5)
    assert "/tasks/exit" not in world.topics(id)
    assert (await world.tasks.delete(id)).status == 5


async def test_an_exit_that_the_shim_tells_before_the_daemon_knows_its_tasks_is_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await running(world, "early")
    await world.until(lambda: "/tasks/start" in world.topics(id), "the start is told")
    pid = world.tasks.get(id).pid
    told, forward, recover = asyncio.Event(), Runtime.forward, Recovery.run

    async def forwarded(runtime: Runtime, envelope: Envelope) -> None:
        told.set()
        await forward(runtime, envelope)

    async def recover_late(recovery: Recovery) -> None:
        await told.wait()
        await recover(recovery)

    await world.stop()
    os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr(Runtime, "forward", forwarded)
    monkeypatch.setattr(Recovery, "run", recover_late)
    await world.start()
    await world.until(lambda: "/tasks/exit" in world.topics(id), "the exit is told")
    await world.tasks.delete(id)
    await world.until(lambda: "/tasks/delete" in world.topics(id), "the deletion is told")
    assert world.topics(id) == ["/tasks/exit", "/tasks/delete"]


async def test_a_shim_that_died_while_the_daemon_was_away(world: World) -> None:
    id = await running(world, "lost")
    await world.stop()
    os.kill(world.shim_pid(id), signal.SIGKILL)
    await world.start()
    assert world.tasks.get(id).status is Status.STOPPED
    assert world.tasks.get(id).exit_status == 137
    assert world.topics(id) == ["/tasks/exit"]
    await world.restart()
    assert world.topics(id) == []
    assert (await world.tasks.delete(id)).status == 137
    await world.until(lambda: not world.leftovers(), "all is removed")


async def test_an_exec_is_found_again(world: World) -> None:
    from moorage_api.oci import spec as oci

    id = await running(world, "execs")
    sleeping = oci.encode(oci.exec_process(oci.default_spec(args=("sleep", "1000")), ("sleep", "1000")))
    await world.tasks.exec(id, "long", sleeping)
    pid = await world.tasks.start(id, "long")
    await world.restart()
    await world.tasks.kill(id, signal.SIGKILL, "long")
    exit = await asyncio.wait_for(world.tasks.wait(id, "long"), 5)
    assert (exit.status, exit.pid) == (137, pid)
    await world.tasks.delete(id, "long")
    with pytest.raises(NotFound):
        await world.tasks.wait(id, "long")
    await end(world, id)


async def test_a_hung_shim_does_not_hold_up_the_start(world: World) -> None:
    hung, well = await running(world, "hung"), await running(world, "well")
    # Stopped only now: of a process group that its parent's end makes an orphan, the kernel lets the stopped go on.
    await world.stop()
    with world.hung(hung):
        before = time.monotonic()
        await world.start(recovery_timeout=1.0)
        assert time.monotonic() - before < 4  # of which it waits one second for the shim
        assert world.tasks.get(hung).status is Status.UNKNOWN
        assert world.tasks.get(well).status is Status.RUNNING
    await world.until(lambda: world.tasks.get(hung).status is Status.RUNNING, "its answer is believed")
    await end(world, hung)
    await end(world, well)


async def test_a_creation_that_nobody_was_told_of_is_undone(world: World) -> None:
    id = world.container("half", "sleep", "1000")
    await world.tasks.create(id)
    await world.stop()
    (bundle(world, id).path / "record.json").unlink()
    assert world.leftovers() != []
    await world.start()
    assert world.tasks.list() == []
    await world.until(lambda: not world.leftovers(), "all is undone")


@pytest.mark.parametrize("keep", ["config.json", "launch.json", ""])
async def test_a_bundle_without_a_shim_is_removed(world: World, keep: str) -> None:
    id = world.container("bare", "sleep", "1000")
    await world.tasks.create(id)
    kept = bundle(world, id).path.parent / ".kept"
    shutil.copytree(bundle(world, id).path, kept, ignore=shutil.ignore_patterns("rootfs", "log", "work"))
    await world.tasks.delete(id)
    await world.stop()
    (bundle(world, id).path / "rootfs").mkdir(parents=True)
    if keep:
        shutil.copy(kept / keep, bundle(world, id).path / keep)
    await world.start()
    assert world.tasks.list() == []
    assert world.leftovers() == []


async def test_a_damaged_record_is_that_of_a_half_made_task(world: World) -> None:
    id = world.container("damaged", "sleep", "1000")
    await world.tasks.create(id)
    await world.stop()
    (bundle(world, id).path / "record.json").write_bytes(b'{"pid": 1')
    await world.start()
    assert world.tasks.list() == []
    await world.until(lambda: not world.leftovers(), "all is undone")


async def test_a_shim_that_was_not_written_down_is_ended(world: World, kind: str) -> None:
    id = world.container("unwritten", "sleep", "1000")
    await world.tasks.create(id)
    pid = world.shim_pid(id)
    await world.stop()
    for name in ("record.json", "bootstrap.json"):
        (bundle(world, id).path / name).unlink()
    await world.start()
    assert world.tasks.list() == []
    await world.until(lambda: not world.leftovers(), "all is undone")
    await world.until(lambda: not os.path.exists(f"/proc/{pid}"), "the shim has ended")
