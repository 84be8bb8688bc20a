"""What plugins are told of pods and containers, and when."""

from __future__ import annotations

import threading
import time

import pytest

from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from support.cri import CriClient, pod_config
from support.nri import Join, Pod, mask


def test_a_pod_from_its_start_to_its_removal(join: Join, cri: CriClient) -> None:
    plugin = join()
    config = pod_config(labels={"app": "x"}, annotations={"a": "b"})
    pod = cri.run_pod(config)
    told = plugin.wait_for("RunPodSandbox").pod
    assert (told.id, told.name, told.namespace, told.uid) == (
        pod, config.metadata.name, "default", config.metadata.uid,
    )  # fmt: skip
    assert (dict(told.labels), dict(told.annotations)) == ({"app": "x"}, {"a": "b"})
    assert list(told.ips) == [cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip]
    assert {namespace.type for namespace in told.linux.namespaces} == {"network", "ipc", "uts"}
    resources = cri_pb2.LinuxContainerResources(cpu_shares=512)
    cri.UpdatePodSandboxResources(pod_sandbox_id=pod, resources=resources)
    assert plugin.wait_for("UpdatePodSandbox").linux_resources.cpu.shares.value == 512
    cri.stop_pod(pod)
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    cri.remove_pod(pod)
    assert plugin.story(pod) == [
        "RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox",
    ]  # fmt: skip
    # When it was told, the pod's network was still there.
    stopped = plugin.wait_for("StopPodSandbox").pod
    assert "network" in {namespace.type for namespace in stopped.linux.namespaces}


def test_a_container_from_its_start_to_its_removal(join: Join, pod: Pod) -> None:
    plugin = join()
    container = pod.start(envs=[cri_pb2.KeyValue(key="A", value=b"1")])
    cri = pod.cri
    wanted = cri_pb2.LinuxContainerResources(cpu_shares=512)
    cri.UpdateContainerResources(container_id=container, linux=wanted)
    cri.stop(container)
    cri.stop(container)
    cri.RemoveContainer(container_id=container)
    assert plugin.story(container) == [
        "CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "UpdateContainer",
        "PostUpdateContainer", "StopContainer", "RemoveContainer",
    ]  # fmt: skip
    created = plugin.wait_for("CreateContainer")
    assert (created.pod.id, created.container.pod_sandbox_id, created.container.name) == (pod.id, pod.id, "c1")
    assert list(created.container.args) == ["sleep", "1000"]
    assert "A=1" in created.container.env
    assert created.container.linux.cgroups_path.endswith(container)
    starting, started = plugin.wait_for("StartContainer"), plugin.wait_for("PostStartContainer")
    assert starting.container.state == pb.CONTAINER_CREATED
    assert starting.container.pid == started.container.pid > 0
    assert started.container.state == pb.CONTAINER_RUNNING
    assert plugin.wait_for("PostUpdateContainer").container.linux.resources.cpu.shares.value == 512
    stopped = plugin.wait_for("StopContainer").container
    assert (stopped.state, stopped.exit_code) == (pb.CONTAINER_STOPPED, 137)


def test_the_end_of_a_container_is_told_though_nobody_asks(join: Join, pod: Pod) -> None:
    plugin = join()
    container = pod.start("sh", "-c", "exit 3")
    assert plugin.wait_for("StopContainer").container.exit_code == 3
    pod.cri.RemoveContainer(container_id=container)
    assert plugin.story(container)[-2:] == ["StopContainer", "RemoveContainer"]


def test_a_pod_s_end_is_told_after_its_containers(join: Join, pod: Pod) -> None:
    plugin = join()
    containers = [pod.start(), pod.start()]
    pod.cri.stop_pod(pod.id)
    names = [(name, request.pod.id) for name, request in plugin.calls if name.startswith("Stop")]
    assert names == [("StopContainer", pod.id)] * 2 + [("StopPodSandbox", pod.id)]
    pod.cri.remove_pod(pod.id)
    assert plugin.story(pod.id)[-1] == "RemovePodSandbox"
    assert all(plugin.story(each)[-1] == "RemoveContainer" for each in containers)


def test_one_that_was_never_started_is_stopped_before_its_removal(join: Join, pod: Pod) -> None:
    plugin = join()
    container = pod.create()
    pod.cri.RemoveContainer(container_id=container)
    assert plugin.story(container) == ["CreateContainer", "PostCreateContainer", "StopContainer", "RemoveContainer"]


def test_only_what_it_asks_for(join: Join, pod: Pod) -> None:
    plugin = join(events=mask("StopContainer"))
    container = pod.start("true")
    plugin.wait_for("StopContainer")
    assert plugin.story(container) == ["StopContainer"]


def test_an_older_plugin_gets_state_changes(join: Join, pod: Pod) -> None:
    methods = ("StartContainer", "PostCreateContainer", "PostStartContainer", "RemoveContainer", "RunPodSandbox")
    plugin = join(unimplemented=methods)
    container = pod.start("true")
    plugin.wait_for("StopContainer")
    pod.cri.RemoveContainer(container_id=container)
    changes = [(change.event, change.container.id) for change in plugin.seen("StateChange")]
    expected = [pb.POST_CREATE_CONTAINER, pb.START_CONTAINER, pb.POST_START_CONTAINER, pb.REMOVE_CONTAINER]
    # A container that is quick to end may have ended before it could be told that it runs.
    assert [each for each in changes if each[0] != pb.POST_START_CONTAINER] == [
        (event, container) for event in expected if event != pb.POST_START_CONTAINER
    ]
    # Once one was not there, the others are not tried.
    assert len([name for name, _ in plugin.calls if name in methods]) == 1


class TestErrors:
    """An error of a plugin's fails what was about to happen, and nothing stays behind."""

    def test_of_a_pod(self, join: Join, cri: CriClient) -> None:
        fails = threading.Event()
        fails.set()

        def run(_: pb.RunPodSandboxRequest) -> None:
            if fails.is_set():
                raise MoorageError("not today")

        first, plugin = join("first", "00"), join("failing", "10", RunPodSandbox=run)
        config = pod_config()
        with pytest.raises(MoorageError, match="NRI plugin 10-failing failed RunPodSandbox: not today"):
            cri.run_pod(config)
        id = plugin.wait_for("RunPodSandbox").pod.id
        assert cri.ListPodSandbox().items == []
        assert first.story(id) == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
        fails.clear()
        assert cri.run_pod(config)

    def test_of_a_container(self, join: Join, pod: Pod) -> None:
        def create(_: pb.CreateContainerRequest) -> None:
            raise MoorageError("no more")

        plugin = join("failing", CreateContainer=create)
        with pytest.raises(MoorageError, match="NRI plugin 10-failing failed CreateContainer: no more"):
            pod.create()
        id = plugin.wait_for("CreateContainer").container.id
        assert plugin.story(id) == ["CreateContainer", "StopContainer", "RemoveContainer"]
        assert pod.cri.ListContainers().containers == []
        plugin.close()
        assert pod.create()

    def test_of_a_start(self, join: Join, pod: Pod) -> None:
        def start(_: pb.StartContainerRequest) -> None:
            raise MoorageError("stay")

        plugin = join("failing", StartContainer=start)
        container = pod.create()
        with pytest.raises(MoorageError, match="stay"):
            pod.cri.StartContainer(container_id=container)
        assert plugin.wait_for("StopContainer").container.id == container
        status = pod.cri.status(container)
        assert (status.state, status.reason) == (cri_pb2.CONTAINER_EXITED, "StartError")

    def test_of_what_has_happened_is_only_noted(self, join: Join, pod: Pod) -> None:
        def refuse(_: object) -> None:
            raise MoorageError("too late")

        methods = ("PostCreateContainer", "PostStartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox")
        join("sour", **dict.fromkeys(methods, refuse))
        container = pod.start()
        pod.cri.stop(container)
        pod.cri.RemoveContainer(container_id=container)
        pod.cri.stop_pod(pod.id)
        pod.cri.remove_pod(pod.id)


class TestVisibility:
    """What a plugin is asked about is not there before it has answered."""

    def test_of_a_pod(self, join: Join, cri: CriClient) -> None:
        listed = []

        def run(request: pb.RunPodSandboxRequest) -> None:
            listed.extend([pod.id for pod in cri.ListPodSandbox().items])

        join(RunPodSandbox=run)
        assert cri.run_pod(pod_config()) not in listed

    def test_of_a_container(self, join: Join, pod: Pod) -> None:
        listed = []

        def create(request: pb.CreateContainerRequest) -> None:
            listed.extend([container.id for container in pod.cri.ListContainers().containers])

        join(CreateContainer=create)
        pod.create()
        assert listed == []


def test_requests_are_made_one_at_a_time(join: Join, pod: Pod) -> None:
    inside, most = [], []

    def create(_: pb.CreateContainerRequest) -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    join(CreateContainer=create)
    other = Pod(pod.cri, pod.container().image.image)
    calls = [
        pod.cri.CreateContainer.begin(pod_sandbox_id=each.id, config=each.container(), sandbox_config=each.config)
        for each in (pod, other) * 4
    ]
    assert all(call.result().container_id for call in calls)
    assert most == [1] * 8
