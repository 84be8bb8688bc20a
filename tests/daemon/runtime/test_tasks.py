"""Tasks in our own shim, and in Debian's containerd-shim-runc-v2, which speaks the protocol of containerd 1.6."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.oci import spec as oci
from moorage_api.runtime import Status, Stdio
from moorage_api.types import TypedValue
from support.runtime import NAMESPACE, World


def process(*args: str) -> TypedValue:
    """What an exec runs, as JSON in an Any."""
    return oci.encode(
        oci.exec_process(oci.default_spec(args=args), args), "types.containerd.io/opencontainers/runtime-spec/1/Process"
    )


async def test_a_task_lives_and_dies(world: World) -> None:
    id = world.container("life", "sh", "-c", "exit 7")
    created = await world.tasks.create(id)
    assert created.status is Status.CREATED
    assert created.pid > 0
    assert world.tasks.list() == [created]
    assert await world.tasks.start(id) == created.pid
    exit = await world.tasks.wait(id)
    assert (exit.status, exit.pid) == (7, created.pid)
    assert world.tasks.get(id).status is Status.STOPPED
    assert await world.tasks.delete(id) == exit
    await world.until(lambda: "/tasks/delete" in world.topics(id), "the deletion is told")
    assert world.topics(id) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert world.leftovers() == []


async def test_output_goes_to_the_file(world: World, tmp_path: Path) -> None:
    id = world.container("output", "echo", "hello from inside")
    log = tmp_path / "output.log"
    log.touch()
    await world.tasks.create(id, stdio=Stdio(stdout=f"file://{log}", stderr=f"file://{log}"))
    await world.tasks.start(id)
    await world.tasks.wait(id)
    await world.tasks.delete(id)
    assert log.read_text() == "hello from inside\n"


async def test_an_exec_lives_beside_the_first_process(world: World) -> None:
    id = world.container("execs", "sleep", "1000")
    await world.tasks.create(id)
    await world.tasks.start(id)
    await world.tasks.exec(id, "one", process("sh", "-c", "exit 3"))
    assert world.tasks.get(id, "one").status is Status.CREATED
    pid = await world.tasks.start(id, "one")
    exit = await world.tasks.wait(id, "one")
    assert (exit.status, exit.pid) == (3, pid)
    assert (await world.tasks.delete(id, "one")).status == 3
    with pytest.raises(NotFound):
        world.tasks.get(id, "one")
    assert world.tasks.get(id).status is Status.RUNNING
    await world.until(lambda: "/tasks/exit" in world.topics("one"), "the exit is told")
    assert world.topics("one") == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]
    # The name is free at once, and what the earlier process had done is not the new one's.
    for status in (4, 5):
        await world.tasks.exec(id, "one", process("sh", "-c", f"exit {status}"))
        assert world.tasks.get(id, "one").status is Status.CREATED
        pid = await world.tasks.start(id, "one")
        exit = await world.tasks.wait(id, "one")
        assert (exit.status, exit.pid) == (status, pid)
        assert await world.tasks.delete(id, "one") == exit
        with pytest.raises(NotFound):
            await world.tasks.start(id, "one")
    await world.tasks.kill(id, signal.SIGKILL)
    assert (await world.tasks.wait(id)).status == 137
    await world.tasks.delete(id)


async def test_a_task_that_never_started_can_be_deleted(world: World) -> None:
    id = world.container("unstarted", "sleep", "1000")
    await world.tasks.create(id)
    waiting = asyncio.create_task(world.tasks.wait(id))
    await world.tasks.delete(id)
    await asyncio.wait_for(waiting, 5)
    assert world.tasks.list() == []
    assert world.leftovers() == []


async def test_a_running_task_is_not_deleted(world: World) -> None:
    id = world.container("running", "sleep", "1000")
    await world.tasks.create(id)
    await world.tasks.start(id)
    with pytest.raises(FailedPrecondition, match="running"):
        await world.tasks.delete(id)
    assert world.tasks.get(id).status is Status.RUNNING
    await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.wait(id)
    with pytest.raises(NotFound):
        await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.delete(id)


async def test_pause_pids_stats_and_update(world: World) -> None:
    id = world.container("limits", "sleep", "1000")
    created = await world.tasks.create(id)
    await world.tasks.start(id)
    assert [pid for pid, _ in await world.tasks.pids(id)] == [created.pid]
    assert (await world.tasks.stats(id)).type_url.startswith("io.containerd.cgroups.v")
    await world.tasks.pause(id)
    assert world.tasks.get(id).status is Status.PAUSED
    await world.tasks.resume(id)
    assert world.tasks.get(id).status is Status.RUNNING
    limits = TypedValue("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", b'{"pids":{"limit":55}}')
    await world.tasks.update(id, limits)
    found = list(Path("/sys/fs/cgroup").glob(f"**/{world.cgroup}/{id}/pids.max"))
    assert [path.read_text().strip() for path in found] == ["55"]
    await world.tasks.kill(id, signal.SIGKILL)
    await world.tasks.wait(id)
    await world.tasks.delete(id)


@pytest.mark.parametrize(
    ("id", "runtime", "error", "message"),
    [
        ("unknown", "", NotFound, "container unknown not found"),
        ("bad/id", "", InvalidArgument, "task id"),
        (
            "known",
            "io.containerd.nowhere.v1",
            NotFound,
            "find the runtime: .*containerd-shim-nowhere-v1 is not installed",
        ),
        ("known", "../../bin/sh", InvalidArgument, "invalid runtime name"),
        ("known", "/etc/passwd", InvalidArgument, "no executable"),
    ],
)
async def test_a_creation_that_cannot_begin(
    world: World, id: str, runtime: str, error: type[Exception], message: str
) -> None:
    world.container("known", "true")
    with pytest.raises(error, match=message):
        await world.tasks.create(id, runtime=runtime)
    assert world.tasks.list() == []
    assert world.leftovers() == []


async def test_a_creation_that_fails_in_the_oci_runtime_leaves_nothing(world: World) -> None:
    id = world.container("broken", "/no/such/program")
    with pytest.raises(Exception, match=r"create the container: .*no/such/program"):
        await world.tasks.create(id)
    assert world.tasks.list() == []
    assert world.leftovers() == []
    world.container(id, "true")
    await world.tasks.create(id)
    await world.tasks.delete(id)


async def test_a_task_is_created_once(world: World) -> None:
    id = world.container("twice", "sleep", "1000")
    outcomes = await asyncio.gather(world.tasks.create(id), world.tasks.create(id), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExists", "Process"]
    with pytest.raises(AlreadyExists):
        await world.tasks.create(id)
    await world.tasks.delete(id)


async def test_a_cancelled_creation_leaves_nothing(world: World) -> None:
    id = world.container("cancelled", "sleep", "1000")
    creating = asyncio.create_task(world.tasks.create(id))
    await world.until((world.task_folder / NAMESPACE / id).exists, "it has begun")
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await world.until(lambda: not world.leftovers() and not world.tasks.list(), "all is taken back")
    await world.tasks.create(id)
    await world.tasks.delete(id)


async def test_namespaces_do_not_see_each_other(world: World) -> None:
    id = world.container("private", "sleep", "1000")
    await world.tasks.create(id)
    others = world.runtime.tasks("other")
    assert others.list() == []
    with pytest.raises(NotFound):
        others.get(id)
    with pytest.raises(NotFound):
        await others.kill(id, signal.SIGKILL)
    await world.tasks.delete(id)
