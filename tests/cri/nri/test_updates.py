"""Updates and evictions: what plugins make of an update, and what they want of other containers."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from support.nri import Join, Pod


def shares(id: str, value: int, *, ignore_failure: bool = False) -> pb.ContainerUpdate:
    update = pb.ContainerUpdate(container_id=id, ignore_failure=ignore_failure)
    update.linux.resources.cpu.shares.value = value
    return update


def shown(pod: Pod, container: str) -> int:
    return pod.cri.status(container).resources.linux.cpu_shares


def resources(pod: Pod, container: str) -> dict[str, Any]:
    info = pod.cri.ContainerStatus(container_id=container, verbose=True).info["info"]
    found: dict[str, Any] = json.loads(info)["runtimeSpec"]["linux"]["resources"]
    return found


def wanted(value: int) -> cri_pb2.LinuxContainerResources:
    return cri_pb2.LinuxContainerResources(cpu_shares=value)


class TestAnUpdate:
    """What a client asks for, as plugins change it."""

    def test_it_is_changed(self, join: Join, pod: Pod) -> None:
        def update(request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
            change = shares(request.container.id, request.linux_resources.cpu.shares.value + 1)
            change.linux.resources.pids.limit = 55
            return pb.UpdateContainerResponse(update=[change])

        join(UpdateContainer=update)
        container = pod.start()
        pod.cri.UpdateContainerResources(container_id=container, linux=wanted(300))
        assert shown(pod, container) == 301
        found = resources(pod, container)
        assert (found["cpu"]["shares"], found["pids"]["limit"]) == (301, 55)

    def test_two_plugins_conflict(self, join: Join, pod: Pod) -> None:
        def update(request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
            return pb.UpdateContainerResponse(update=[shares(request.container.id, 400)])

        join("one", UpdateContainer=update)
        join("two", UpdateContainer=update)
        container = pod.start(resources=wanted(200))
        with pytest.raises(MoorageError, match="10-one and 10-two both set CPUShares"):
            pod.cri.UpdateContainerResources(container_id=container, linux=wanted(300))
        assert shown(pod, container) == 200

    def test_a_conflict_may_be_ignored(self, join: Join, pod: Pod) -> None:
        def update(value: int, *, ignore: bool) -> Any:
            return lambda request: pb.UpdateContainerResponse(
                update=[shares(request.container.id, value, ignore_failure=ignore)]
            )

        join("one", UpdateContainer=update(400, ignore=False))
        join("two", UpdateContainer=update(500, ignore=True))
        container = pod.start()
        pod.cri.UpdateContainerResources(container_id=container, linux=wanted(300))
        assert shown(pod, container) == 400

    def test_an_error_changes_nothing(self, join: Join, pod: Pod) -> None:
        def update(_: pb.UpdateContainerRequest) -> None:
            raise MoorageError("leave it")

        join(UpdateContainer=update)
        container = pod.start(resources=wanted(200))
        with pytest.raises(MoorageError, match="leave it"):
            pod.cri.UpdateContainerResources(container_id=container, linux=wanted(300))
        assert shown(pod, container) == 200


class TestOthers:
    """What a plugin wants of other containers has been done when the call is answered."""

    def test_while_one_is_made(self, join: Join, pod: Pod) -> None:
        other, evicted = pod.start(), pod.start()

        def create(_: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
            eviction = pb.ContainerEviction(container_id=evicted, reason="room is needed")
            return pb.CreateContainerResponse(update=[shares(other, 222)], evict=[eviction])

        plugin = join(CreateContainer=create)
        pod.create()
        assert shown(pod, other) == 222
        assert pod.cri.status(evicted).state == cri_pb2.CONTAINER_EXITED
        plugin.wait_for("StopContainer", lambda request: request.container.id == evicted)

    def test_the_one_that_is_made_cannot_be_updated(self, join: Join, pod: Pod) -> None:
        join(
            CreateContainer=lambda request: pb.CreateContainerResponse(update=[shares(request.container.id, 222)])
        )  # fmt: skip
        with pytest.raises(MoorageError, match="which is being made"):
            pod.create()

    def test_when_one_has_ended(self, join: Join, pod: Pod) -> None:
        other = pod.start()
        stopping = pod.start()
        plugin = join(StopContainer=lambda _: pb.StopContainerResponse(update=[shares(other, 321)]))
        pod.cri.stop(stopping)
        plugin.wait_for("StopContainer")
        _eventually(lambda: shown(pod, other) == 321)

    def test_each_other_at_once(self, join: Join, pod: Pod) -> None:
        """A plugin that balances all whenever one changes."""
        containers = [pod.start() for _ in range(3)]

        def update(request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
            others = [each for each in containers if each != request.container.id]
            return pb.UpdateContainerResponse(update=[shares(each, 700) for each in others])

        join(UpdateContainer=update)
        calls = [
            pod.cri.UpdateContainerResources.begin(container_id=each, linux=wanted(300 + number))
            for number in range(5)
            for each in containers
        ]
        for call in calls:
            call.result()


class TestUnasked:
    """Updates that a plugin wants by itself."""

    def test_they_are_made(self, join: Join, pod: Pod) -> None:
        plugin = join()
        created, running = pod.create(), pod.start()
        assert plugin.update(shares(created, 150), shares(running, 160)) == []
        assert (shown(pod, created), shown(pod, running)) == (150, 160)

    def test_those_that_fail_are_named(self, join: Join, pod: Pod) -> None:
        plugin = join()
        good, bad, ignored = pod.start(), pod.start(), pod.start()

        def impossible(id: str, *, ignore_failure: bool = False) -> pb.ContainerUpdate:
            update = pb.ContainerUpdate(container_id=id, ignore_failure=ignore_failure)
            update.linux.resources.cpu.cpus = "4000"
            return update

        failed = plugin.update(impossible(bad), shares(good, 170), impossible(ignored, ignore_failure=True))
        assert failed == [bad]
        assert shown(pod, good) == 170

    def test_what_is_gone_is_no_failure(self, join: Join, pod: Pod) -> None:
        plugin = join()
        ended = pod.start()
        pod.cri.stop(ended)
        assert plugin.update(shares(ended, 150), shares("f" * 64, 150)) == []

    def test_evictions(self, join: Join, pod: Pod) -> None:
        plugin = join()
        container = pod.start()
        plugin.update(evict=(pb.ContainerEviction(container_id=container, reason="no room"),))
        assert pod.cri.status(container).state == cri_pb2.CONTAINER_EXITED


def _eventually(holds: Any) -> None:
    waiting = threading.Event()
    for _ in range(3000):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("it does not come true")
