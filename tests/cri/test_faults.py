"""Every step of making a pod and a container failing, hanging, or being cut off: nothing stays, and the retry works."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from moorage_api.events import Envelope
from moorage_api.oci.image import ImageConfig, RunConfig
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_api.wire import events_types_pb2 as events
from moorage_cri import labels
from moorage_cri.background import Background
from moorage_cri.cni.network import PodNetwork
from moorage_cri.config import Config
from moorage_cri.container import journal
from moorage_cri.container.create import CreateContainer
from moorage_cri.container.start import StartContainer
from moorage_cri.container.status import ContainerStatus
from moorage_cri.container.stop import StopContainer
from moorage_cri.context import Cri
from moorage_cri.exits import Exits
from moorage_cri.image.cache import CachedImage, ImageCache
from moorage_cri.metadata import encode_sandbox
from moorage_cri.model import Run
from moorage_cri.recovery import recover
from moorage_cri.sandbox.run import RunPodSandbox
from moorage_cri.sandbox.stop import StopPodSandbox
from support.cri import container_config, pod_config
from support.cri_core import FakeCall, FakeCore, Faults

IMAGE_ID = "sha256:" + "a" * 64


class FakeNetwork:
    """A network without plugins."""

    def __init__(self, faults: Faults) -> None:
        self.attached: set[str] = set()
        self.later: dict[str, Callable[[], Awaitable[None]]] = {}
        self._faults = faults

    async def prepare(self, attachment: Any) -> Any:
        self.attached.add(attachment.id)
        await self._faults.check_async("network.prepare")
        return attachment

    async def add(self, entry: Any) -> PodNetwork:
        await self._faults.check_async("network.add")
        return PodNetwork(("10.0.0.1",), {})

    async def detach(self, id: str) -> None:
        await self._faults.check_async("network.detach")
        self.attached.discard(id)

    def detach_later(self, id: str, then: Callable[[], Awaitable[None]]) -> None:
        self.later[id] = then

    async def take_down(self) -> None:
        """Do what is left to be done in the background."""
        for id in list(self.later):
            await self.detach(id)
            await self.later[id]()
            del self.later[id]

    def stands(self, id: str) -> bool:
        return id in self.attached

    def known(self) -> list[str]:
        return sorted(self.attached)

    def restore(self, id: str) -> PodNetwork | None:
        return PodNetwork(("10.0.0.1",), {}) if id in self.attached else None


class FakeNamespaces:
    """Network namespaces without a kernel."""

    def __init__(self, faults: Faults) -> None:
        self.made: set[str] = set()
        self._faults = faults

    def path(self, id: str) -> str:
        return f"/netns/{id}"

    async def make(self, id: str, sysctls: Any) -> str:
        await self._faults.check_async("network namespace.make")
        self.made.add(id)
        return self.path(id)

    def remove(self, id: str) -> None:
        self._faults.check("network namespace.remove")
        self.made.discard(id)

    def ids(self) -> list[str]:
        return sorted(self.made)


class Images(ImageCache):
    """One image, known by `image`."""

    def __init__(self) -> None:
        self._only = CachedImage(IMAGE_ID, "chain", 1, ImageConfig(config=RunConfig(cmd=("true",))), {"image"})

    def resolve(self, text: str) -> CachedImage:
        return self._only

    def read_all(self) -> list[Any]:
        return []


class World:
    """The plugin over a fake core, with what tests do to it."""

    def __init__(self, folder: Path) -> None:
        self.core = FakeCore(folder)
        self.faults = self.core.faults
        self.network = FakeNetwork(self.faults)
        self.namespaces = FakeNamespaces(self.faults)
        self.folder = folder
        self.cri = self.make()
        self.following: asyncio.Task[None] | None = None

    def make(self) -> Cri:
        core: Any = self.core
        network: Any = self.network
        namespaces: Any = self.namespaces
        root, state = self.folder / "root", self.folder / "state"
        return Cri(Config(), core, core, root, state, network, namespaces, Images(), Background())

    async def follow(self) -> None:
        self.following = asyncio.ensure_future(Exits(self.cri).follow())
        self.core.tasks.on_exit = self.exited
        await asyncio.sleep(0)

    def exited(self, id: str, exit: Any) -> None:
        event = events.TaskExit(container_id=id, id=id, exit_status=exit.status)
        event.exited_at.FromNanoseconds(exit.at)
        self.send("/tasks/exit", event)

    def send(self, topic: str, event: Any) -> None:
        for queue in self.core.events.queues:
            queue.put_nowait(Envelope(0, "k8s.io", topic, TypedValue("", event.SerializeToString())))

    async def pod(self, config: cri_pb2.PodSandboxConfig, seconds: float | None = None) -> str:
        request = cri_pb2.RunPodSandboxRequest(config=config)
        return (await RunPodSandbox(self.cri).RunPodSandbox(request, FakeCall(seconds))).pod_sandbox_id

    async def container(self, pod: str, seconds: float | None = None, **fields: Any) -> str:
        request = cri_pb2.CreateContainerRequest(pod_sandbox_id=pod, config=container_config("image", "x", **fields))
        return (await CreateContainer(self.cri).CreateContainer(request, FakeCall(seconds))).container_id

    async def start(self, container: str) -> None:
        request = cri_pb2.StartContainerRequest(container_id=container)
        await StartContainer(self.cri).StartContainer(request, FakeCall())

    async def stop(self, container: str, grace: int = 0) -> None:
        request = cri_pb2.StopContainerRequest(container_id=container, timeout=grace)
        await StopContainer(self.cri).StopContainer(request, FakeCall())

    async def status(self, container: str) -> cri_pb2.ContainerStatus:
        request = cri_pb2.ContainerStatusRequest(container_id=container)
        return (await ContainerStatus(self.cri).ContainerStatus(request, FakeCall())).status

    async def until(
        self, container: str, condition: Callable[[cri_pb2.ContainerStatus], bool]
    ) -> cri_pb2.ContainerStatus:
        """The first status of which that is true."""
        async with asyncio.timeout(20):
            while not condition(status := await self.status(container)):
                await asyncio.sleep(0.005)
        return status

    async def remove_pod(self, pod: str) -> None:
        request = cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod)
        await StopPodSandbox(self.cri).RemovePodSandbox(request, FakeCall())
        await self.network.take_down()

    def pods_left(self) -> list[object]:
        core = self.core
        return [
            *core.sandboxes.items,
            *core.leases.items,
            *core.sandbox_controller.states,
            *self.network.attached,
            *self.namespaces.made,
            *(self.folder / "root/sandboxes").glob("*"),
            *self.cri.sandboxes,
        ]

    def containers_left(self) -> list[object]:
        core = self.core
        return [
            *core.containers.items,
            *core.snapshots.keys,
            *core.tasks.tasks,
            *(self.folder / "root/containers").glob("*"),
            *self.cri.containers,
        ]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    if made.following is not None:
        made.following.cancel()
        await asyncio.gather(made.following, return_exceptions=True)
    await made.cri.background.stop()


POD_STEPS = [
    "lease.create",
    "sandbox record.create",
    "sandbox.start",
    "network namespace.make",
    "network.prepare",
    "network.add",
]
CONTAINER_STEPS = ["snapshot.prepare", "container record.create"]


@pytest.mark.parametrize("step", POD_STEPS)
async def test_a_failing_step_of_a_pod_leaves_nothing(world: World, step: str) -> None:
    config = pod_config()
    world.faults.fail[step] = Unavailable("broken")
    with pytest.raises(Unavailable, match="broken"):
        await world.pod(config)
    assert world.pods_left() == []
    world.faults.fail.clear()
    await world.remove_pod(await world.pod(config))
    assert world.pods_left() == []


@pytest.mark.parametrize("seconds", [0.05, 0.2])
async def test_a_hanging_network_ends_with_the_deadline(world: World, seconds: float) -> None:
    config = pod_config()
    world.faults.fail["network.add"] = None
    with pytest.raises(DeadlineExceeded, match="making the pod"):
        await world.pod(config, seconds)
    assert world.pods_left() == []
    world.faults.fail.clear()
    assert await world.pod(config)


@pytest.mark.parametrize("moment", range(8))
async def test_a_pod_that_is_cut_off_at_any_moment_leaves_nothing(world: World, moment: int) -> None:
    config = pod_config()
    task = asyncio.ensure_future(world.pod(config))
    await asyncio.sleep(moment * 0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await world.remove_pod(await task)
    assert world.pods_left() == []
    assert await world.pod(config)


async def test_undoing_goes_on_when_a_step_of_it_fails(world: World) -> None:
    config = pod_config()
    world.faults.fail |= {"network.add": Unavailable("first"), "network.detach": Unavailable("second")}
    with pytest.raises(Unavailable, match="first"):
        await world.pod(config)
    world.faults.fail.clear()
    await world.network.take_down()
    assert world.pods_left() == []


async def test_a_name_is_held_while_its_pod_is_made(world: World) -> None:
    config = pod_config()
    world.faults.fail["network.add"] = None
    first = asyncio.ensure_future(world.pod(config))
    await asyncio.sleep(0.05)
    with pytest.raises(AlreadyExists, match="which is being made since"):
        await world.pod(config)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.faults.fail.clear()
    assert await world.pod(config)


@pytest.mark.parametrize(
    "step",
    ["network.detach", "network namespace.remove", "sandbox.stop", "sandbox.shutdown", "sandbox record.delete"],
)
async def test_a_failing_removal_of_a_pod_can_be_repeated(world: World, step: str) -> None:
    pod = await world.pod(config := pod_config())
    world.faults.fail[step] = Unavailable("broken")
    with pytest.raises(Unavailable):
        await world.remove_pod(pod)
    world.faults.fail.clear()
    await world.remove_pod(pod)
    assert world.pods_left() == []
    assert await world.pod(config)


@pytest.mark.parametrize("step", CONTAINER_STEPS)
async def test_a_failing_step_of_a_container_leaves_nothing(world: World, step: str) -> None:
    pod = await world.pod(pod_config())
    world.faults.fail[step] = Unavailable("broken")
    with pytest.raises(Unavailable, match="broken"):
        await world.container(pod)
    assert world.containers_left() == []
    world.faults.fail.clear()
    assert await world.container(pod)


@pytest.mark.parametrize("moment", range(6))
async def test_a_container_that_is_cut_off_at_any_moment_leaves_nothing(world: World, moment: int) -> None:
    pod = await world.pod(pod_config())
    task = asyncio.ensure_future(world.container(pod))
    await asyncio.sleep(moment * 0.002)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert world.containers_left() == []
        assert await world.container(pod)


@pytest.mark.parametrize("step", ["task.create", "task.start"])
async def test_a_failing_start_is_a_start_error_and_leaves_no_task(world: World, step: str) -> None:
    container = await world.container(await world.pod(pod_config()))
    world.faults.fail[step] = Unavailable("broken")
    with pytest.raises(Unavailable):
        await world.start(container)
    assert world.core.tasks.tasks == {}
    status = await world.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri_pb2.CONTAINER_EXITED, 128, "StartError")
    assert status.message == "broken"
    with pytest.raises(FailedPrecondition):
        await world.start(container)


async def test_a_start_that_is_cut_off_leaves_no_task(world: World) -> None:
    container = await world.container(await world.pod(pod_config()))
    world.faults.fail["task.start"] = None
    task = asyncio.ensure_future(world.start(container))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.core.tasks.tasks == {}
    assert (await world.status(container)).reason == "StartError"


@pytest.mark.parametrize("step", ["task.delete", "snapshot.remove", "container record.delete"])
async def test_a_failing_removal_of_a_container_can_be_repeated(world: World, step: str) -> None:
    await world.follow()
    pod = await world.pod(pod_config())
    container = await world.container(pod)
    await world.start(container)
    world.faults.fail[step] = Unavailable("broken")
    with pytest.raises(Unavailable):
        await world.remove_pod(pod)
    world.faults.fail.clear()
    await world.remove_pod(pod)
    assert world.pods_left() == []
    # The folder goes after the answer.
    async with asyncio.timeout(10):
        while world.containers_left():
            await asyncio.sleep(0.01)


async def test_the_stop_signal_is_sent_once(world: World) -> None:
    await world.follow()
    container = await world.container(await world.pod(pod_config()))
    await world.start(container)
    await asyncio.gather(world.stop(container, 1), world.stop(container, 1))
    assert [number for _, number in world.core.tasks.kills].count(15) == 1
    assert (await world.status(container)).exit_code == 137


async def test_the_end_is_written_after_the_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    save = journal.save

    def slow(folder: Path, run: Run, *, sync: bool = False) -> None:
        known = replace(run)
        time.sleep(0 if sync else 0.2)
        save(folder, known, sync=sync)

    monkeypatch.setattr(journal, "save", slow)
    await world.follow()
    container = await world.container(await world.pod(pod_config()))
    starting = asyncio.ensure_future(world.start(container))
    while not world.cri.containers.get(container).running:
        await asyncio.sleep(0.001)
    await world.stop(container)
    await starting
    written = journal.load(world.cri.container_folder(container))
    assert written is not None
    assert written.exit_code == 137


async def test_out_of_memory_is_the_reason_in_either_order(world: World) -> None:
    await world.follow()
    pod = await world.pod(pod_config())
    for first in (True, False):
        container = await world.container(pod, name=f"c{first}")
        await world.start(container)
        if first:
            world.send("/tasks/oom", events.TaskOOM(container_id=container))
        await world.core.tasks.kill(container, 9)
        if not first:
            world.send("/tasks/oom", events.TaskOOM(container_id=container))
        status = await world.until(container, lambda status: status.reason == "OOMKilled")
        assert status.exit_code == 137


async def test_an_exec_s_end_is_not_the_container_s(world: World) -> None:
    await world.follow()
    container = await world.container(await world.pod(pod_config()))
    await world.start(container)
    world.send("/tasks/exit", events.TaskExit(container_id=container, id="exec", exit_status=1))
    world.send("/tasks/exit", events.TaskExit(container_id="stranger", id="stranger", exit_status=1))
    await asyncio.sleep(0.02)
    assert (await world.status(container)).state == cri_pb2.CONTAINER_RUNNING


async def test_what_was_missed_is_asked_for(world: World) -> None:
    await world.follow()
    pod = await world.pod(pod_config())
    ended, vanished = [await world.container(pod, name=name) for name in ("a", "b")]
    for container in (ended, vanished):
        await world.start(container)
    world.core.tasks.on_exit = lambda id, exit: None
    await world.core.tasks.kill(ended, 9)
    del world.core.tasks.tasks[vanished]
    world.core.events.queues[0].put_nowait(ResourceExhausted("too slow"))
    status = await world.until(ended, lambda status: status.state == cri_pb2.CONTAINER_EXITED)
    assert status.exit_code == 137
    status = await world.until(vanished, lambda status: status.state == cri_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (255, "Unknown")


async def test_a_new_start_finds_runs_as_they_are(world: World) -> None:
    pod = await world.pod(config := pod_config())
    names = ("running", "created", "half", "lost", "exited")
    ids = {name: await world.container(pod, name=name) for name in names}
    for name in ("running", "lost", "exited"):
        await world.start(ids[name])
    await world.core.tasks.create(ids["half"])
    del world.core.tasks.tasks[ids["lost"]]
    await world.core.tasks.kill(ids["exited"], 9)
    before = time.time_ns()
    world.cri = world.make()
    await recover(world.cri)
    Exits(world.cri).catch_up()
    await world.until(ids["exited"], lambda status: status.state == cri_pb2.CONTAINER_EXITED)
    await world.until(ids["lost"], lambda status: status.state == cri_pb2.CONTAINER_EXITED)
    states = {name: (await world.status(id)).state for name, id in ids.items()}
    assert states == {
        "running": cri_pb2.CONTAINER_RUNNING,
        "created": cri_pb2.CONTAINER_CREATED,
        "half": cri_pb2.CONTAINER_CREATED,
        "lost": cri_pb2.CONTAINER_EXITED,
        "exited": cri_pb2.CONTAINER_EXITED,
    }
    assert (await world.status(ids["exited"])).exit_code == 137
    lost = await world.status(ids["lost"])
    assert (lost.exit_code, lost.reason) == (255, "Unknown")
    assert lost.finished_at >= before
    await world.start(ids["half"])
    with pytest.raises(AlreadyExists):
        await world.pod(config)
    await world.cri.background.stop()


async def test_what_is_being_made_is_no_leftover(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking down what an earlier run left may take long, and calls are served meanwhile."""
    pod = await world.pod(pod_config())
    (world.folder / "root/sandboxes/unfinished").mkdir()
    world.cri = world.make()
    ended, made = asyncio.Event(), threading.Event()
    stop, create = world.core.sandbox_controller.stop, world.core.containers.create

    async def slow_stop(id: str, timeout: float = 10.0) -> None:
        await ended.wait()
        await stop(id, timeout)

    def slow_create(item: Any) -> Any:
        made.wait(10)
        return create(item)

    monkeypatch.setattr(world.core.sandbox_controller, "stop", slow_stop)
    monkeypatch.setattr(world.core.containers, "create", slow_create)
    await recover(world.cri)
    making = asyncio.ensure_future(world.container(pod))
    async with asyncio.timeout(10):
        while not list((world.folder / "root/containers").glob("*")):
            await asyncio.sleep(0.01)
        ended.set()
        while (world.folder / "root/sandboxes/unfinished").exists():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        made.set()
        container = await making
    assert (world.folder / "root/containers" / container).is_dir()
    assert container in world.core.snapshots.keys
    await world.cri.background.stop()


async def test_a_pod_of_an_earlier_boot_is_kept_without_its_mark(world: World) -> None:
    pod = await world.pod(pod_config())
    for mark in (world.folder / "root/sandboxes").glob("*/made"):
        mark.unlink()
    world.cri = world.make()
    await recover(world.cri)
    await asyncio.sleep(0.1)
    await world.network.take_down()
    assert world.pods_left() == []
    await world.cri.background.stop()
    pod = await world.pod(pod_config())
    sandbox = world.cri.sandboxes.get(pod)
    sandbox.boot = "earlier"
    record = world.core.sandboxes.items[pod]
    record.extensions[labels.SANDBOX_METADATA] = encode_sandbox(sandbox)
    for mark in (world.folder / "root/sandboxes").glob("*/made"):
        mark.unlink()
    world.core.sandbox_controller.states.clear()
    world.cri = world.make()
    await recover(world.cri)
    assert [found.id for found in world.cri.sandboxes] == [pod]
    assert not world.cri.is_ready(world.cri.sandboxes.get(pod))
    await world.cri.background.stop()
