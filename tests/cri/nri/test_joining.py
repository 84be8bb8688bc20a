"""How plugins join and leave: what they learn first, and what happens to calls meanwhile."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from moorage_api.errors import DeadlineExceeded, InvalidArgument, MoorageError, Unavailable
from moorage_api.wire import nri_pb2 as pb
from support.cri import CriClient
from support.daemon import Daemon
from support.nri import PLUGIN, Join, NriPlugin, Pod


def hang(_: object) -> None:
    threading.Event().wait(60)


class TestFirst:
    """What a plugin is told before anything happens."""

    def test_its_configuration(self, join: Join) -> None:
        told = join().configuration
        assert told is not None
        assert told.runtime_name == "moorage"
        assert told.runtime_version
        assert (told.registration_timeout, told.request_timeout) == (5000, 2000)

    def test_what_there_is(self, join: Join, pod: Pod) -> None:
        created, running, ended = pod.create(), pod.start(), pod.start("true")
        while pod.cri.status(ended).finished_at == 0:
            time.sleep(0.01)
        told = join().wait_for("Synchronize")
        assert [each.id for each in told.pods] == [pod.id]
        states = {each.id: each.state for each in told.containers}
        assert states == {created: pb.CONTAINER_CREATED, running: pb.CONTAINER_RUNNING}
        [started] = [each for each in told.containers if each.id == running]
        assert list(started.args) == ["sleep", "1000"]
        assert started.pid > 0

    def test_in_parts_where_it_is_much(self, join: Join, pod: Pod) -> None:
        large = {f"test.example/{number}": "x" * 240_000 for number in range(1)}
        containers = {pod.create(annotations=large) for _ in range(16)}
        plugin = join()
        parts = plugin.seen("Synchronize")
        assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
        assert len(parts) > 1
        told = [each.id for part in parts for each in part.containers]
        assert set(told) == containers
        assert len(told) == len(containers)

    def test_what_ends_meanwhile(self, join: Join, pod: Pod) -> None:
        """The first plugin was told that it runs; so it is told that it ends."""
        container = pod.start()

        def synchronize(request: pb.SynchronizeRequest) -> pb.SynchronizeResponse:
            os.kill(pod.cri.pid(container), signal.SIGKILL)
            while not pod.cri.status(container).finished_at:
                time.sleep(0.01)
            return pb.SynchronizeResponse()

        plugin = join(Synchronize=synchronize)
        plugin.wait_for("StopContainer")
        pod.cri.remove(container)
        assert plugin.story(container) == ["StopContainer", "RemoveContainer"]

    def test_its_wishes_are_fulfilled(self, join: Join, pod: Pod) -> None:
        container = pod.start()

        def synchronize(request: pb.SynchronizeRequest) -> pb.SynchronizeResponse:
            wanted = pb.ContainerUpdate(container_id=request.containers[0].id)
            wanted.linux.resources.cpu.shares.value = 444
            return pb.SynchronizeResponse(update=[wanted])

        join(Synchronize=synchronize)
        while pod.cri.status(container).resources.linux.cpu_shares != 444:
            time.sleep(0.01)


def test_none_is_lost_or_seen_twice_in_a_burst(join: Join, pod: Pod, busybox: str) -> None:
    """Plugins join while containers are made, started, stopped and removed as fast as they can be."""
    stop = threading.Event()
    made: list[str] = []
    pods = [pod, Pod(pod.cri, busybox), Pod(pod.cri, busybox)]

    def churn(mine: Pod) -> None:
        while not stop.is_set():
            container = mine.start("sleep", "100")
            made.append(container)
            if len(made) % 2:
                mine.cri.stop(container)
                mine.cri.RemoveContainer(container_id=container)

    with ThreadPoolExecutor(3) as pool:
        works = [pool.submit(churn, each) for each in pods]
        plugins = []
        try:
            for number in range(6):
                plugins.append(join(f"late{number}"))
                count = len(made)
                while len(made) < count + 2 and not any(work.done() for work in works):
                    time.sleep(0.01)
        finally:
            stop.set()
        for work in works:
            work.result()
    for each in pods:
        pod.cri.stop_pod(each.id)
        pod.cri.remove_pod(each.id)
    for plugin in plugins:
        _check(plugin)
    # The first was there all the time but for its own joining.
    synced = {each.id for each in plugins[0].wait_for("Synchronize").containers}
    created = {request.container.id for request in plugins[0].seen("CreateContainer")}
    assert created <= set(made)
    assert set(made[made.index(min(created, key=made.index)) :]) <= created | synced


def _check(plugin: NriPlugin) -> None:
    """Whatever a plugin knows of it knows from one place, and each story is whole from there on."""
    [synced] = plugin.seen("Synchronize")
    first = {each.id: each.state for each in synced.containers}
    created = [request.container.id for request in plugin.seen("CreateContainer")]
    assert len(created) == len(set(created))
    assert not set(created) & set(first)
    whole = ["CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "StopContainer"]
    whole.append("RemoveContainer")
    for id in {*created, *first}:
        story = plugin.story(id)
        if id in created:
            assert story == whole, (plugin.name, id)
        elif first[id] == pb.CONTAINER_CREATED:
            assert [name for name in story if name != "PostCreateContainer"] == whole[2:], (plugin.name, id)
        else:
            assert story == whole[4:], (plugin.name, id)


def test_a_restart_of_the_daemon(join: Join, pod: Pod, shared_daemon: Daemon, cri: CriClient) -> None:
    """Plugins join anew, and find what ran on; what they are told goes on from there."""
    before = join()
    running, ending = pod.start(), pod.start("sh", "-c", "while [ ! -e /stop ]; do sleep 0.01; done")
    shared_daemon.kill()
    assert before.closed.wait(10)
    shared_daemon.start()
    cri.wait_ready()
    after = join()
    assert {each.id for each in after.wait_for("Synchronize").containers} == {running, ending}
    pod.output(ending, "touch", "/stop")
    after.wait_for("StopContainer", lambda request: request.container.id == ending)
    pod.cri.stop_pod(pod.id)
    pod.cri.remove_pod(pod.id)
    assert after.story(running) == after.story(ending) == ["StopContainer", "RemoveContainer"]
    assert after.story(pod.id) == ["StopPodSandbox", "RemovePodSandbox"]


class TestLeaving:
    """A plugin that is lost takes nothing with it."""

    def test_one_that_dies_in_a_call(self, join: Join, pod: Pod) -> None:
        def create(_: pb.CreateContainerRequest) -> None:
            dying.trunk.close()

        other = join("other", "20")
        dying = join("dying", "10", CreateContainer=create)
        container = pod.create()
        assert other.story(container) == ["CreateContainer", "PostCreateContainer"]

    def test_one_that_hangs(self, join: Join, pod: Pod) -> None:
        other = join("other", "20")
        hanging = join("hanging", "10", CreateContainer=hang)
        container = pod.create()
        assert hanging.closed.wait(10)
        assert other.story(container) == ["CreateContainer", "PostCreateContainer"]
        pod.create()
        assert len(hanging.seen("CreateContainer")) == 1, "it is asked no more"

    def test_one_that_answers_rubbish(self, join: Join, pod: Pod) -> None:
        """What it may have wanted is not known, so the container is not made."""

        def create(_: pb.CreateContainerRequest) -> pb.RegisterPluginRequest:
            return pb.RegisterPluginRequest(plugin_name="\x0f\x0f\x0f")

        babbling = join("babbling", CreateContainer=create)
        with pytest.raises(MoorageError, match=r"10-babbling failed CreateContainer: .* cannot be read"):
            pod.create()
        assert babbling.closed.wait(10)
        assert pod.create()

    @pytest.mark.parametrize("rubbish", [b"\xff" * 64, struct.pack(">II", PLUGIN, 20) + b"\xee" * 20])
    def test_one_that_breaks_the_protocol(self, join: Join, pod: Pod, rubbish: bytes) -> None:
        def create(_: pb.CreateContainerRequest) -> None:
            broken.trunk.write(rubbish)
            hang(None)

        broken = join("broken", CreateContainer=create)
        assert pod.create()
        assert broken.closed.wait(10)


class TestRefused:
    """Who does not join properly does not take part."""

    @pytest.mark.parametrize(("name", "index"), [("", "10"), ("a/b", "10"), ("fine", "1"), ("fine", "x1")])
    def test_a_name_that_is_none(self, shared_daemon: Daemon, name: str, index: str) -> None:
        with NriPlugin(shared_daemon.nri_socket, name, index) as plugin, pytest.raises(InvalidArgument):
            plugin.register()

    def test_unknown_events(self, shared_daemon: Daemon) -> None:
        with NriPlugin(shared_daemon.nri_socket, events=1 << 20) as plugin:
            plugin.register()
            assert plugin.closed.wait(10)

    def test_updates_before_it_has_registered(self, shared_daemon: Daemon) -> None:
        with NriPlugin(shared_daemon.nri_socket) as plugin, pytest.raises(Unavailable):
            plugin.update()

    def test_one_that_takes_no_parts(self, shared_daemon: Daemon, pod: Pod) -> None:
        for _ in range(16):
            pod.create(annotations={"test.example/large": "x" * 240_000})
        with NriPlugin(
            shared_daemon.nri_socket, Synchronize=lambda _: pb.SynchronizeResponse()
        ) as plugin:  # fmt: skip
            plugin.register()
            assert plugin.closed.wait(10)
        assert len(plugin.seen("Synchronize")) == 1

    def test_one_that_hangs_when_it_is_synchronised(self, shared_daemon: Daemon, pod: Pod) -> None:
        with NriPlugin(shared_daemon.nri_socket, Synchronize=hang) as plugin:
            plugin.register()
            plugin.wait_for("Synchronize")
            # It waits, and goes on when the plugin has had its time.
            assert pod.create()
            assert plugin.closed.wait(10)


def test_a_call_that_waits_for_a_plugin_can_be_given_up(join: Join, pod: Pod) -> None:
    plugin = join(CreateContainer=hang)
    with pytest.raises(DeadlineExceeded):
        pod.cri.CreateContainer(pod_sandbox_id=pod.id, config=pod.container(), sandbox_config=pod.config, deadline=0.5)
    id = plugin.wait_for("CreateContainer").container.id
    plugin.wait_for("RemoveContainer", lambda request: request.container.id == id)
    assert pod.cri.ListContainers().containers == []
