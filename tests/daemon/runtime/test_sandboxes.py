"""Sandboxes in our own shim: made, shared by containers, stopped, lost, and found again."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from moorage_api.containers import Runtime
from moorage_api.errors import AlreadyExists, FailedPrecondition, NotFound
from moorage_api.runtime import Status
from moorage_api.sandboxes import SandboxController, SandboxSpec
from mooraged.runtime.bundle import Bundle, Record
from support.runtime import DEBIAN, NAMESPACE, OURS, World
from support.shim import kill


@pytest.fixture
def kind() -> str:
    return OURS


def pods(world: World) -> SandboxController:
    return world.runtime.sandboxes(NAMESPACE)


def spec(id: str, *namespaces: str) -> SandboxSpec:
    return SandboxSpec(id, Runtime(OURS), hostname="pod", namespaces=namespaces or ("network", "ipc", "uts"))


def zygote(world: World) -> int:
    assert world.launcher is not None
    assert world.launcher._process is not None
    return world.launcher._process.pid


async def start_container(world: World, id: str, pod: str, *args: str) -> str:
    world.container(id, *(args or ("sleep", "1000")), sandbox_id=pod)
    await world.tasks.create(id)
    await world.tasks.start(id)
    return id


async def test_a_sandbox_is_started_stopped_and_removed(world: World) -> None:
    status = await pods(world).start(spec("pod"))
    assert status.state == "ready"
    assert status.pid > 0
    assert sorted(os.listdir(f"{status.path}/ns")) == ["ipc", "net", "uts"]
    assert pods(world).list() == [status]
    with pytest.raises(AlreadyExists):
        await pods(world).start(spec("pod"))
    waiting = asyncio.create_task(pods(world).wait("pod"))
    await pods(world).stop("pod")
    assert (await asyncio.wait_for(waiting, 1)).state == "notready"
    assert pods(world).status("pod").state == "notready"
    await pods(world).stop("pod")
    await pods(world).shutdown("pod")
    await pods(world).shutdown("pod")
    with pytest.raises(NotFound):
        pods(world).status("pod")
    assert world.topics("pod") == ["/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"]
    await world.until(lambda: not world.sockets, "the shim has ended")
    assert world.leftovers() == []


async def test_containers_share_one_shim(world: World) -> None:
    pod = await pods(world).start(spec("pod"))
    await start_container(world, "one", "pod")
    await start_container(world, "two", "pod")
    assert len(world.sockets) == 1
    await world.tasks.kill("one", signal.SIGKILL)
    await world.tasks.wait("one")
    await world.tasks.delete("one")
    assert world.tasks.get("two").status is Status.RUNNING
    assert pods(world).status("pod") == pod
    await pods(world).stop("pod")
    two = world.tasks.get("two")
    assert (two.status, two.exit_status) == (Status.STOPPED, 137)
    assert (await world.tasks.delete("two")).status == 137
    await pods(world).shutdown("pod")
    assert world.leftovers() == []


async def test_no_container_enters_a_stopped_sandbox(world: World) -> None:
    await pods(world).start(spec("pod"))
    await pods(world).stop("pod")
    world.container("late", "true", sandbox_id="pod")
    with pytest.raises(FailedPrecondition, match="sandbox pod is not ready"):
        await world.tasks.create("late")
    await pods(world).shutdown("pod")
    assert world.leftovers() == []


async def test_a_failing_container_does_not_harm_its_sandbox(world: World) -> None:
    await pods(world).start(spec("pod"))
    world.container("broken", "/no/such/program", sandbox_id="pod")
    with pytest.raises(Exception, match="no/such/program"):
        await world.tasks.create("broken")
    assert pods(world).status("pod").state == "ready"
    await start_container(world, "well", "pod")
    await pods(world).stop("pod")
    await world.tasks.delete("well")
    await pods(world).shutdown("pod")
    assert world.leftovers() == []


async def test_a_killed_shim_takes_its_pod_along(world: World) -> None:
    await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    waiting = asyncio.gather(pods(world).wait("pod"), world.tasks.wait("inside"))
    await asyncio.sleep(0)
    os.kill(world.shim_pid("pod"), signal.SIGKILL)
    status, exit = await asyncio.wait_for(waiting, 5)
    assert status.state == "notready"
    assert exit.status == 137
    await world.until(lambda: "/sandboxes/exit" in world.topics("pod"), "the end is told")
    assert "/tasks/exit" in world.topics("inside")
    await world.tasks.delete("inside")
    await pods(world).shutdown("pod")
    await world.until(lambda: not world.leftovers(), "all is removed")


async def test_a_hung_shim_is_ended_by_force(world: World) -> None:
    await world.restart(shutdown_timeout=0.5)
    await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    with world.hung("pod"):
        await asyncio.wait_for(pods(world).stop("pod", timeout=0.5), 10)
    assert pods(world).status("pod").state == "notready"
    assert world.tasks.get("inside").status is Status.STOPPED
    await world.tasks.delete("inside")
    await pods(world).shutdown("pod")
    await world.until(lambda: not world.leftovers(), "all is removed")


async def test_a_killed_zygote_harms_nothing(world: World) -> None:
    await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    os.kill(zygote(world), signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert world.tasks.get("inside").status is Status.RUNNING
    await pods(world).start(spec("another"))
    await world.tasks.kill("inside", signal.SIGKILL)
    await world.tasks.wait("inside")
    await world.tasks.delete("inside")
    await pods(world).shutdown("pod")
    await pods(world).shutdown("another")


async def test_a_pod_is_found_again(world: World) -> None:
    before = await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    await world.restart()
    assert pods(world).status("pod") == before
    assert world.tasks.get("inside").status is Status.RUNNING
    await start_container(world, "later", "pod")
    await pods(world).stop("pod")
    await world.tasks.delete("inside")
    await world.tasks.delete("later")
    await world.restart()
    assert pods(world).status("pod").state == "notready"
    await pods(world).shutdown("pod")
    assert world.leftovers() == []


async def test_a_pod_that_died_while_the_daemon_was_away(world: World) -> None:
    await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    await world.stop()
    kill(world.shim_pid("pod"))
    await world.start()
    assert pods(world).status("pod").state == "notready"
    assert world.tasks.get("inside").exit_status == 137
    await world.tasks.delete("inside")
    await pods(world).shutdown("pod")
    await world.until(lambda: not world.leftovers(), "all is removed")


async def test_a_stop_that_was_cut_short_is_finished(world: World) -> None:
    status = await pods(world).start(spec("pod"))
    await start_container(world, "inside", "pod")
    await world.stop()
    Bundle(world.sandbox_folder, NAMESPACE, "pod").write_record(Record(status.pid, status.created_at, exited=True))
    await world.start()
    assert pods(world).status("pod").state == "notready"
    await pods(world).shutdown("pod")
    await world.until(lambda: not world.sockets, "the shim has ended")
    assert (await world.tasks.delete("inside")).status == 137
    assert world.leftovers() == []


async def test_half_made_ones_are_undone(world: World) -> None:
    await pods(world).start(spec("kept"))
    await pods(world).start(spec("half"))
    await start_container(world, "inside", "kept")
    await world.stop()
    (world.sandbox_folder / NAMESPACE / "half/record.json").unlink()
    (world.task_folder / NAMESPACE / "inside/record.json").unlink()
    await world.start()
    assert [pod.id for pod in pods(world).list()] == ["kept"]
    assert world.tasks.list() == []
    await pods(world).shutdown("kept")
    await world.until(lambda: not world.leftovers() and not world.sockets, "all is undone")


async def test_a_shim_without_sandboxes(world: World) -> None:
    """It gets a task that pauses instead."""
    await pods(world).start(SandboxSpec("pod", Runtime(DEBIAN)))
    assert [status.state for status in pods(world).list()] == ["ready"]
    await pods(world).stop("pod")
    await pods(world).shutdown("pod")
    assert pods(world).list() == []
    await world.until(lambda: not world.leftovers(), "nothing is left")
