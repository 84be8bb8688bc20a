"""Pods in a shim that is not Moorage's and knows tasks alone: containerd's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from mooraged.runtime import pause
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.leftovers import cgroup_processes, mounts_below
from support.terminal import wait_until

SHIM = "/usr/bin/containerd-shim-runc-v2"
TABLE = '[plugins."io.containerd.grpc.v1.cri".runtimes'
HANDLERS = f"""
{TABLE}.default]
{TABLE}.other]
runtime_type = "{SHIM}"
{TABLE}.other.options]
BinaryName = "runc"
"""


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    with Daemon(HANDLERS) as running:
        yield running


def entries(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split(" ", 3)[1], line.split(" ", 3)[3]) for line in lines]


def shims(daemon: Daemon) -> set[int]:
    found = subprocess.run(["pgrep", "-f", f"{SHIM}.*{daemon.address}"], capture_output=True, text=True, check=False)
    return {int(pid) for pid in found.stdout.split()}


def test_a_pod_s_life(cri: CriClient, shared_daemon: Daemon, busybox: str, logs: Path) -> None:
    config = pod_config(log_directory=logs, hostname="foreign")
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    pod = cri.run_pod(config, "other")
    address = cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip
    script = "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.05; done"
    one = cri.start(pod, config, container_config(busybox, "sh", "-c", script, name="one", log_path="one.log"))
    two = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="two"))
    assert len(shims(shared_daemon)) == 1
    run = ("sh", "-c", "hostname; cat /proc/sys/kernel/shm_rmid_forced; ip addr show eth0 | grep -o 'inet [0-9.]*'")
    assert cri.execute(two, *run).stdout.decode().split() == ["foreign", "1", "inet", address]
    assert cri.execute(one, "sh", "-c", "echo x > /dev/shm/x").exit_code == 0
    assert cri.execute(two, "cat", "/dev/shm/x").stdout == b"x\n"
    namespaces = ("readlink", "/proc/self/ns/ipc", "/proc/self/ns/uts", "/proc/self/ns/net")
    assert cri.execute(one, *namespaces).stdout == cri.execute(two, *namespaces).stdout
    wait_until(lambda: len(entries(logs / "one.log")) == 2, "both lines are in the log")
    assert sorted(entries(logs / "one.log")) == [("stderr", "err"), ("stdout", "out")]
    assert cri.ContainerStats(container_id=two).stats.memory.working_set_bytes.value > 0
    cri.stop(one, 10)
    assert cri.status(one).exit_code == 7
    cri.stop_pod(pod)
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_NOTREADY
    cri.remove_pod(pod)
    assert mounts_below(shared_daemon.state / "io.containerd.runtime.v2.task") == []
    assert [each for each in mounts_below(shared_daemon.state) if "sandbox" in each] == []
    wait_until(lambda: not shims(shared_daemon), "the shim has ended")
    assert cgroup_processes(shared_daemon.cgroup_parent) == set()


def test_a_shared_pid_namespace(cri: CriClient, busybox: str) -> None:
    config = pod_config(network=cri_pb2.NODE, pid=cri_pb2.POD)
    pod = cri.run_pod(config, "other")
    one = cri.start(pod, config, container_config(busybox, "sleep", "1234", name="one", pid=cri_pb2.POD))
    two = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="two", pid=cri_pb2.POD))
    assert b"sleep 1234" in cri.execute(two, "ps").stdout
    assert b"/pause" in cri.execute(one, "ps").stdout


def test_a_log_is_rotated(cri: CriClient, busybox: str, logs: Path) -> None:
    config = pod_config(network=cri_pb2.NODE, log_directory=logs)
    pod = cri.run_pod(config, "other")
    script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.005; done"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", script, log_path="0.log"))
    for number in range(3):
        wait_until(lambda: len(entries(logs / "0.log")) > 5, "there is something to rotate")
        (logs / "0.log").rename(logs / f"0.log.{number}")
        cri.ReopenContainerLog(container_id=container)
        assert (logs / "0.log").exists()
    wait_until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED, "it has ended", 60)
    files = [*(logs / f"0.log.{number}" for number in range(3)), logs / "0.log"]
    wait_until(lambda: sum(len(entries(file)) for file in files) == 400, "all lines are written")
    assert [text for file in files for _, text in entries(file)] == [str(number) for number in range(1, 401)]


def test_a_restart_of_the_daemon(cri: CriClient, shared_daemon: Daemon, busybox: str, logs: Path) -> None:
    """The log flows on meanwhile, an exit is told with its code, and the pod can be taken down."""
    config = pod_config(log_directory=logs)
    pod = cri.run_pod(config, "other")
    script = "while [ ! -e /go ]; do sleep 0.05; done; echo went; exit 9"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", script, log_path="0.log"))
    shared_daemon.kill()
    pid = next(pid for pid in cgroup_processes(shared_daemon.cgroup_parent) if b"/go" in _command(pid))
    Path(f"/proc/{pid}/root/go").touch()
    wait_until(lambda: entries(logs / "0.log") == [("stdout", "went")], "it is written without the daemon")
    shared_daemon.start()
    cri.wait_ready()
    wait_until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED, "the exit is known")
    assert cri.status(container).exit_code == 9
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_READY
    other = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="other"))
    assert cri.execute(other, "true").exit_code == 0
    cri.remove_pod(pod)
    wait_until(lambda: not shims(shared_daemon), "the shim has ended")


def test_the_death_of_the_shim(cri: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    config = pod_config()
    pod = cri.run_pod(config, "other")
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    [shim] = shims(shared_daemon)
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED, "the container is dead")
    wait_until(
        lambda: cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == cri_pb2.SANDBOX_NOTREADY, "the pod is dead"
    )
    cri.remove_pod(pod)
    wait_until(lambda: cgroup_processes(shared_daemon.cgroup_parent) == set(), "nothing runs")


def test_what_another_shim_cannot_do(cri: CriClient, busybox: str) -> None:
    config = pod_config()
    mapping = [cri_pb2.IDMapping(host_id=100_000, length=65_536)]
    own = cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=mapping, gids=mapping)
    config.linux.security_context.namespace_options.userns_options.CopyFrom(own)
    with pytest.raises(MoorageError, match="user namespace") as caught:
        cri.run_pod(config, "other")
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_is_an_executable(tmp_path: Path, machine: str) -> None:
    path = tmp_path / "pause"
    path.write_bytes(pause.program(machine))
    path.chmod(0o755)
    assert path.read_bytes()[:7] == b"\x7fELF\x02\x01\x01"
    if os.uname().machine == machine:
        process = subprocess.Popen([path])
        try:
            wait_until(lambda: _ignores(process.pid, signal.SIGCHLD), "it ignores the end of children")
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def _ignores(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [line.split()[1] for line in lines if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> number - 1 & 1)


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
