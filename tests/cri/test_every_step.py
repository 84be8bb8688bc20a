"""A failure, a hang and a crash at every step of making and of taking down: nothing stays, and the retry works."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import AlreadyExists, MoorageError, NotFound
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until
from support.faultydaemon import FaultyDaemon, How
from support.traces import traces

STEPS_MAX = 100
# A crash costs a start of the daemon: at one step of each call, and at every step where somebody has the time.
EVERY_CRASH = bool(os.environ.get("MOORAGE_TEST_SOAK"))
SECONDS = 0.7


@dataclass
class World:
    """A daemon whose steps can be struck, with a pod and an image in it."""

    daemon: FaultyDaemon
    cri: CriClient
    image: str
    config: cri_pb2.PodSandboxConfig
    pod: str

    def container(self, *command: str, name: str = "main") -> cri_pb2.ContainerConfig:
        return container_config(self.image, *command, name=name)

    def running(self) -> str:
        return self.cri.start(self.pod, self.config, self.container("sleep", "1000", name="running"))


@pytest.fixture(scope="module")
def world(busybox: str) -> Iterator[World]:
    with FaultyDaemon() as daemon, CriClient(daemon.address) as cri:
        cri.pull(busybox)
        config = pod_config(network=cri_pb2.NODE)
        made = World(daemon, cri, busybox, config, cri.run_pod(config))
        # What stays after the first of each kind is there from now on.
        other = pod_config()
        cri.remove_pod(cri.run_pod(other))
        cri.remove(made.running())
        yield made
        cri.remove_all()


def _strike(world: World, how: How, call: Callable[[], Any], after: Callable[[], None]) -> list[str]:
    """Make the call while its first, second, … step is struck, until it is made without; `after` each. Returns what was
    struck."""
    names: list[str] = []
    while len(names) < STEPS_MAX:
        world.daemon.arm(len(names), how)
        problem = _problem(call)
        step = world.daemon.struck()
        if not step:
            assert problem is None, (names, problem)
            after()
            return names
        names.append(step)
        after()
    raise AssertionError(f"there is no end to the steps: {names}")


def _problem(call: Callable[[], Any]) -> MoorageError | None:
    """What is wrong with the call, which is made again while the one before has not let go of the name: where that was
    given up, its caller knows it before the daemon does."""
    problem: MoorageError | None = None

    def settled() -> bool:
        nonlocal problem
        try:
            call()
        except MoorageError as error:
            problem = error
        else:
            problem = None
        return not (isinstance(problem, AlreadyExists) and "being made" in problem.message)

    until(settled)
    return problem


def _same(world: World, before: set[str]) -> None:
    left: set[str] = set()

    def check() -> bool:
        nonlocal left
        left = traces(world.daemon) - before
        return not left

    try:
        until(check)
    except AssertionError:
        inside = [str(found) for path in left for found in Path(path).rglob("*")]
        told = [line for line in world.daemon.log().splitlines() if "level=trace" not in line]
        raise AssertionError("\n".join([f"left behind: {left}", *inside, *told[-40:]])) from None


@pytest.mark.parametrize("how", ["before", "after", "hang"])
def test_making_a_pod(world: World, how: How) -> None:
    before = traces(world.daemon)
    config = pod_config()
    pods = {world.pod}

    def run() -> None:
        world.cri.RunPodSandbox(config=config, deadline=SECONDS if how == "hang" else None)

    def after() -> None:
        # A pod whose answer did not get through is the caller's to find by its name, and to remove.
        for pod in world.cri.ListPodSandbox().items:
            if pod.id not in pods:
                world.cri.remove_pod(pod.id)
        _same(world, before)

    names = _strike(world, how, run, after)
    assert {name.split()[0] for name in names} >= {"thread", "CNI", "shim", "network"}


@pytest.mark.parametrize("volumes", [0, 1])
@pytest.mark.parametrize("how", ["before", "after", "hang"])
def test_making_a_container(world: World, how: How, volumes: int) -> None:
    """With the volume of an image it takes a step for each thing that is made; without, all is made in one."""
    before = traces(world.daemon)

    def create() -> None:
        config = world.container("true", name="stepped")
        image = cri_pb2.ImageSpec(image=world.image)
        config.mounts.extend([cri_pb2.Mount(container_path="/volume", readonly=True, image=image)] * volumes)
        world.cri.CreateContainer(
            pod_sandbox_id=world.pod,
            config=config,
            sandbox_config=world.config,
            deadline=SECONDS if how == "hang" else None,
        )

    def after() -> None:
        for container in world.cri.ListContainers().containers:
            world.cri.remove(container.id)
        _same(world, before)

    assert len(_strike(world, how, create, after)) >= (5 if volumes else 1)


@pytest.mark.parametrize("how", ["before", "after"])
def test_starting_a_container(world: World, how: How) -> None:
    before = traces(world.daemon)
    container = ""

    def start() -> None:
        nonlocal container
        container = world.cri.create(world.pod, world.config, world.container("sleep", "1000", name="starting"))
        world.cri.StartContainer(container_id=container)

    def after() -> None:
        for each in world.cri.ListContainers().containers:
            state = world.cri.status(each.id)
            assert state.state != cri_pb2.CONTAINER_EXITED or state.reason == "StartError"
            world.cri.remove(each.id)
        _same(world, before)

    names = _strike(world, how, start, after)
    assert f"shim Start ({how})" in names


@pytest.mark.parametrize("how", ["before", "after"])
def test_taking_a_pod_down(world: World, how: How) -> None:
    """What fails is done by the same call made again; what is done in the background is done by itself."""
    before = traces(world.daemon)
    config = pod_config()
    pod = world.cri.run_pod(config)
    world.cri.start(pod, config, world.container("sleep", "1000"))
    for call in (world.cri.stop_pod, world.cri.remove_pod):
        for step in range(STEPS_MAX):
            world.daemon.arm(step, how)
            try:
                call(pod)
            except MoorageError:
                call(pod)
            if not world.daemon.struck():
                break
    _same(world, before)


def _end(world: World, step: int, how: How, call: Callable[[], Any]) -> str:
    """Make the call, let the daemon end at a step of it, and start it again."""
    world.daemon.arm(step, how)
    with suppress(MoorageError):
        call()
    struck = world.daemon.struck()
    if struck:
        # One that was told to stop brings to an end what it has begun.
        world.daemon.signal(signal.SIGTERM if how == "stop" else signal.SIGKILL)
        world.daemon.start()
    return struck


CALLS: dict[str, Callable[[World, cri_pb2.PodSandboxConfig, str, str], Any]] = {
    "RunPodSandbox": lambda world, config, pod, container: world.cri.run_pod(pod_config()),
    "CreateContainer": lambda world, config, pod, container: world.cri.create(
        pod, config, world.container("true", name="more")
    ),
    "StartContainer": lambda world, config, pod, container: world.cri.start(
        pod, config, world.container("sleep", "1000", name="more")
    ),
    "ExecSync": lambda world, config, pod, container: world.cri.execute(container, "true"),
    "UpdateContainerResources": lambda world, config, pod, container: world.cri.UpdateContainerResources(
        container_id=container, linux={"cpu_shares": 512}
    ),
    "ReopenContainerLog": lambda world, config, pod, container: world.cri.ReopenContainerLog(container_id=container),
    "StopContainer": lambda world, config, pod, container: world.cri.stop(container),
    "RemoveContainer": lambda world, config, pod, container: world.cri.remove(container),
    "StopPodSandbox": lambda world, config, pod, container: world.cri.stop_pod(pod),
    "RemovePodSandbox": lambda world, config, pod, container: world.cri.remove_pod(pod),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "kill") for name in CALLS),
        *((name, "stop") for name in ("RunPodSandbox", "StartContainer", "StopPodSandbox")),
    ],
)
def test_an_end_in_the_middle(world: World, name: str, how: How) -> None:
    """`kill -9`, or a service manager's stop, at a step of a call: the next start finds a whole world, and the pod can be
    taken down as ever."""
    before = traces(world.daemon)
    for step in range(STEPS_MAX) if EVERY_CRASH else [len(name) % 4]:
        config = pod_config()
        pod = world.cri.run_pod(config)
        container = world.cri.start(pod, config, world.container("sleep", "1000"))
        struck = _end(world, step, how, lambda: CALLS[name](world, config, pod, container))  # noqa: B023
        for each in world.cri.ListPodSandbox().items:
            if each.id != world.pod:
                world.cri.stop_pod(each.id)
                world.cri.remove_pod(each.id)
        with pytest.raises(NotFound):
            world.cri.status(container)
        _same(world, before)
        if not struck:
            return
