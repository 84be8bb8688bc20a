"""What a new start of the daemon finds: `kill -9`, exits meanwhile, dead shims, half-made pods."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until, with_image
from support.daemon import Daemon


@pytest.fixture
def client(daemon: Daemon, busybox: str) -> Iterator[CriClient]:
    """A client of the test's own daemon, which has the image; it connects anew after each start."""
    with with_image(daemon, busybox) as cri:
        yield cri


def _again(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def test_everything_is_as_it_was(daemon: Daemon, client: CriClient, busybox: str, tmp_path: Path) -> None:
    config = pod_config(labels={"a": "b"}, annotations={"c": "d"}, log_directory=tmp_path)
    pod = client.run_pod(config)
    running = client.start(pod, config, container_config(busybox, "sleep", "1000", name="running", log_path="r.log"))
    created = client.create(pod, config, container_config(busybox, "sleep", "1000", name="created"))
    done = client.start(pod, config, container_config(busybox, "sh", "-c", "exit 5", name="done"))
    until(lambda: client.status(done).state == cri_pb2.CONTAINER_EXITED)
    stopped = client.run_pod(other := pod_config(network=cri_pb2.NODE))
    client.StopPodSandbox(pod_sandbox_id=stopped)

    def seen() -> list[object]:
        statuses = [client.PodSandboxStatus(pod_sandbox_id=id).status for id in (pod, stopped)]
        return [
            *statuses,
            *(client.status(id) for id in (running, created, done)),
            list(client.ListContainers().containers),
            list(client.ListPodSandbox().items),
            list(client.ListImages().images),
        ]

    before = seen()
    _again(daemon)
    assert seen() == before
    assert client.execute(running, "echo", "alive").stdout == b"alive\n"
    for config_, name in ((config, pod), (other, stopped)):
        with pytest.raises(MoorageError, match=name):
            client.run_pod(config_)
    client.StartContainer(container_id=created)
    client.stop(running)
    assert client.status(running).exit_code == 137


def test_exits_meanwhile_are_told_truly(daemon: Daemon, client: CriClient, busybox: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = client.run_pod(config)
    script = "trap 'exit 9' TERM; while :; do sleep 0.05; done"
    one = client.start(pod, config, container_config(busybox, "sh", "-c", script, name="one"))
    two = client.start(pod, config, container_config(busybox, "sleep", "1000", name="two"))
    started = client.status(one).started_at
    pids = [client.pid(one), client.pid(two)]
    client.until_heeded(one, signal.SIGTERM)
    daemon.kill()
    killed = time.time_ns()
    os.kill(pids[0], signal.SIGTERM)
    os.kill(pids[1], signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    ended = time.time_ns()
    time.sleep(0.3)
    daemon.start()
    first, second = client.status(one), client.status(two)
    assert (first.state, first.exit_code, first.reason) == (cri_pb2.CONTAINER_EXITED, 9, "Error")
    assert (second.state, second.exit_code) == (cri_pb2.CONTAINER_EXITED, 137)
    assert first.started_at == started
    assert killed < first.finished_at < ended


def test_a_pod_whose_shim_died_is_not_ready(daemon: Daemon, client: CriClient, busybox: str) -> None:
    config = pod_config()
    pod = client.run_pod(config)
    container = client.start(pod, config, container_config(busybox, "sleep", "1000"))
    shim = client.shim_pid(pod)
    os.kill(shim, signal.SIGKILL)
    until(lambda: client.status(container).state == cri_pb2.CONTAINER_EXITED)
    until(lambda: client.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_NOTREADY)
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip == ""
    client.StopPodSandbox(pod_sandbox_id=pod)
    client.RemovePodSandbox(pod_sandbox_id=pod)
    leases = daemon.folder / "cni/ipam" / daemon.network.bridge
    until(lambda: not [path for path in leases.iterdir() if path.name[0].isdigit()])


def test_a_kill_in_the_middle_leaves_nothing(daemon: Daemon, client: CriClient, busybox: str) -> None:
    conf = daemon.folder / "cni/conf/10-bridge.conflist"
    network = json.loads(conf.read_text())
    slow = daemon.folder / "bin"
    slow.mkdir()
    (slow / "slow").write_text(f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] && touch {slow}/reached && exec sleep 60\nexit 0\n")
    (slow / "slow").chmod(0o755)
    text = daemon.config_file.read_text()
    assert 'bin_dirs = ["' in text
    daemon.config_file.write_text(text.replace('bin_dirs = ["', f'bin_dirs = ["{slow}", "'))
    daemon.restart()
    network["plugins"].append({"type": "slow"})
    conf.write_text(json.dumps(network))
    config = pod_config()
    future = client.RunPodSandbox.begin(config=config)
    until((slow / "reached").exists)
    daemon.kill()
    with pytest.raises(MoorageError):
        future.result()
    network["plugins"].pop()
    conf.write_text(json.dumps(network))
    daemon.start()
    assert list(client.ListPodSandbox().items) == []
    plugin = daemon.root / "io.containerd.grpc.v1.cri"
    leases = daemon.folder / "cni/ipam" / daemon.network.bridge
    until(lambda: not any((plugin / "cni").iterdir()) and not any((plugin / "sandboxes").iterdir()))
    assert [path for path in leases.iterdir() if path.name[0].isdigit()] == []
    until(lambda: not any((daemon.state / "io.containerd.grpc.v1.cri/netns").iterdir()))
    shims = [line for line in daemon.leftovers() if "shim" in line and "zygote" not in line and "workshop" not in line]
    assert shims == []
    pod = client.run_pod(config)
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_READY


def test_a_caller_that_goes_away_leaves_nothing(daemon: Daemon, client: CriClient, busybox: str) -> None:
    config = pod_config()
    for _ in range(3):
        with pytest.raises(MoorageError):
            client.RunPodSandbox(config=config, deadline=0.03)
    plugin = daemon.root / "io.containerd.grpc.v1.cri"
    until(lambda: not any((plugin / "cni").iterdir()) and not any((plugin / "sandboxes").iterdir()))
    assert list(client.ListPodSandbox().items) == []
    pod = ""

    def run() -> bool:
        nonlocal pod
        # The last call may not have ended yet, or not even begun.
        with suppress(AlreadyExists):
            pod = client.run_pod(config)
        return bool(pod)

    until(run)
    assert client.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_READY
