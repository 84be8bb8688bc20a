"""Shims that hang, crashes in a grace period, memory that runs out, many commands: what operators meet."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moorage_api.errors import DeadlineExceeded, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until, with_image
from support.daemon import Daemon
from support.measure import processes_named
from support.traces import traces

SOAK = bool(os.environ.get("MOORAGE_TEST_SOAK"))
"""Ten times as often: for who has the time."""

Pod = tuple[str, cri_pb2.PodSandboxConfig]


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    """The module's daemon, which its tests kill and start again."""
    with Daemon() as running:
        yield running


@pytest.fixture
def cri(own: Daemon, busybox: str) -> Iterator[CriClient]:
    with with_image(own, busybox) as client:
        yield client


@pytest.fixture
def pod(cri: CriClient, tmp_path: Path) -> Pod:
    config = pod_config(network=cri_pb2.NODE, log_directory=tmp_path)
    return cri.run_pod(config), config


def _hang(own: Daemon, shim: int) -> None:
    """Stop a shim and what it has forked to work for it."""
    os.kill(shim, signal.SIGSTOP)
    for pid, parent in processes_named(own.tag, ["moorage-shim", "moorage-worker"]).items():
        if parent == shim:
            os.kill(pid, signal.SIGSTOP)


def test_a_shim_that_hangs_is_its_own_pod_s_trouble(own: Daemon, cri: CriClient, pod: Pod, busybox: str) -> None:
    own.restart()
    began = time.monotonic()
    own.restart()
    usual = time.monotonic() - began
    healthy = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    before = traces(own)
    config = pod_config()
    hung = cri.run_pod(config)
    stuck = cri.start(hung, config, container_config(busybox, "sleep", "1000"))
    _hang(own, cri.shim_pid(hung))
    # No answer about the others, and none from memory, waits for it.
    assert {each.id for each in cri.ListContainers(deadline=10).containers} == {healthy, stuck}
    assert len(cri.ListPodSandbox(deadline=10).items) == 2
    assert cri.ContainerStatus(container_id=stuck, deadline=10).status.state == cri_pb2.CONTAINER_RUNNING
    assert cri.PodSandboxStatus(pod_sandbox_id=hung, deadline=10).status.state == cri_pb2.SANDBOX_READY
    assert len(cri.ListContainerStats(deadline=10).stats) == 2
    assert cri.execute(healthy, "echo", "well").stdout == b"well\n"
    with pytest.raises(DeadlineExceeded):
        cri.ExecSync(container_id=stuck, cmd=["true"], deadline=1)
    own.kill()
    began = time.monotonic()
    own.start()
    # Five seconds on a machine that does nothing else.
    assert time.monotonic() - began < 4 * usual + 5
    assert {each.id for each in cri.ListContainers(deadline=10).containers} == {healthy, stuck}
    assert cri.execute(healthy, "echo", "well").stdout == b"well\n"
    cri.StopPodSandbox(pod_sandbox_id=hung, deadline=30)
    cri.RemovePodSandbox(pod_sandbox_id=hung, deadline=30)
    assert [each.id for each in cri.ListContainers().containers] == [healthy]
    until(lambda: traces(own) - before == set())


def test_a_grace_period_goes_on_over_a_crash(
    own: Daemon, cri: CriClient, pod: Pod, busybox: str, tmp_path: Path
) -> None:
    script = "trap 'echo told; sleep 3; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, log_path="log"))
    until(lambda: "up" in (tmp_path / "log").read_text())
    pending = cri.StopContainer.begin(container_id=container, timeout=60)
    until(lambda: "told" in (tmp_path / "log").read_text())
    own.kill()
    with pytest.raises(MoorageError):
        pending.result()
    own.start()
    cri.stop(container, grace=60)
    assert cri.status(container).exit_code == 7


def test_a_grace_period_ends_after_a_crash(own: Daemon, cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    script = "trap 'echo told' TERM; echo up; while :; do sleep 0.1; done"
    container = cri.start(*pod, container_config(busybox, "sh", "-c", script, log_path="log"))
    until(lambda: "up" in (tmp_path / "log").read_text())
    pending = cri.StopContainer.begin(container_id=container, timeout=60)
    until(lambda: "told" in (tmp_path / "log").read_text())
    own.kill()
    with pytest.raises(MoorageError):
        pending.result()
    own.start()
    assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING
    cri.stop(container, grace=1)
    assert cri.status(container).exit_code == 137


def test_memory_that_runs_out_is_always_the_reason(cri: CriClient, pod: Pod, busybox: str) -> None:
    limits = cri_pb2.LinuxContainerResources(memory_limit_in_bytes=16 << 20)

    def exhaust(number: int) -> tuple[int, str]:
        hungry = "dd if=/dev/zero of=/dev/null bs=64M"
        config = container_config(busybox, "sh", "-c", hungry, name=f"hungry-{number}", resources=limits)
        container = cri.start(*pod, config)
        until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED)
        status = cri.status(container)
        cri.remove(container)
        return status.exit_code, status.reason

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(exhaust, range(100 if SOAK else 10)))
    assert set(found) == {(137, "OOMKilled")}


def test_a_command_s_children_end_with_its_time(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sh", "-c", "sleep 1001 & sleep 1000"))
    with pytest.raises(DeadlineExceeded):
        cri.execute(container, "sh", "-c", "sleep 2001 & (sleep 2002; true) & sleep 2003", timeout=1)
    shown = cri.execute(container, "ps", "-o", "args").stdout.decode()
    assert "sleep 200" not in shown
    # What is not the command's lives on.
    assert "sleep 1000" in shown
    assert "sleep 1001" in shown


def test_commands_leave_nothing(own: Daemon, cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    cri.execute(container, "true")
    until(lambda: len(_open_files(own)) > 0)
    before, files = traces(own), len(_open_files(own))
    threads = threading.active_count()

    def run(number: int) -> None:
        answer = cri.execute(container, "sh", "-c", f"echo {number}; exit {number % 7}", timeout=60)
        assert (answer.stdout, answer.exit_code) == (b"%d\n" % number, number % 7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1000 if SOAK else 60)))
    until(lambda: len(_open_files(own)) <= files + 5)
    until(lambda: traces(own) - before == set())
    assert threading.active_count() <= threads
    assert cri.execute(container, "sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout.strip() in (b"3", b"4")


def _open_files(own: Daemon) -> list[str]:
    """The descriptors of the daemon and of all shims."""
    pids = [own.process.pid if own.process else 0, *processes_named(own.tag, ["moorage-shim"])]
    return [f"{pid}/{fd}" for pid in pids for fd in _descriptors(pid)]


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return []
