"""One daemon, two worlds: a kubelet's pod and a docker-like container side by side, through crashes, unseen by each other."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.measure import Timings, milliseconds, processes_named, shim_weights

# A line ten times a second, numbered without a gap.
COUNTER = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
PODS = 20


@pytest.fixture
def cri(daemon: Daemon) -> Iterator[CriClient]:
    with CriClient(daemon.address) as client:
        yield client


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def cri_lines(log: Path) -> list[str]:
    """The payload of a log in CRI's format (TIME STREAM TAG PAYLOAD)."""
    return [line.split(" ", 3)[3] for line in log.read_text().splitlines()]


def processes_that_run(script: str) -> list[int]:
    """The processes of containers whose shell was given `script`."""
    found = []
    for entry in Path("/proc").iterdir():
        # It may have ended by now.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and script.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def numbers(lines: Sequence[str]) -> list[int]:
    return [int(line) for line in lines]


def start_both(daemon: Daemon, cri: CriClient, image: str, script: str) -> tuple[str, Path]:
    """A pod with one container, and a native container `native`, both running `script`; the pod's container and its log."""
    logs = daemon.folder / "pods"
    logs.mkdir(exist_ok=True)
    cri.PullImage(image=cri_pb2.ImageSpec(image=image))
    pod = pod_config(log_directory=logs)
    container = cri.start(cri.run_pod(pod), pod, container_config(image, "sh", "-c", script, log_path="main.log"))
    daemon.run("moorage", "run", "-d", "--name", "native", image, "sh", "-c", script)
    return container, logs / "main.log"


def test_kill_nine_loses_no_line(daemon: Daemon, cri: CriClient, busybox: str) -> None:
    container, log = start_both(daemon, cri, busybox, COUNTER)
    wait_until(lambda: log.exists() and len(cri_lines(log)) > 5)
    daemon.kill()
    at_the_kill = len(cri_lines(log))
    # Its output does not stand still while the daemon is away.
    wait_until(lambda: len(cri_lines(log)) >= at_the_kill + 20)
    while_away = len(cri_lines(log))
    daemon.start()
    wait_until(lambda: len(cri_lines(log)) > while_away + 5)

    assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING
    assert daemon.run("moorage", "ps", "-q").split()
    for lines in (cri_lines(log), daemon.run("moorage", "logs", "native").splitlines()):
        found = numbers(lines)
        assert len(found) > 30
        assert found == list(range(1, len(found) + 1))


def test_exits_while_the_daemon_is_away_are_found(daemon: Daemon, cri: CriClient, busybox: str) -> None:
    script = f"trap 'exit 7' USR1; echo {daemon.id}; while true; do sleep 0.1; done"
    container, log = start_both(daemon, cri, busybox, script)
    wait_until(lambda: log.exists() and bool(cri_lines(log) and daemon.run("moorage", "logs", "native")))
    assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING
    daemon.kill()
    pids = processes_that_run(script)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    time.sleep(0.1)  # when it ended is noted by whoever has just reaped it
    before_start = time.time_ns()
    daemon.start()

    status = cri.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri_pb2.CONTAINER_EXITED, 7, "Error")
    assert status.started_at < status.finished_at < before_start
    assert log.exists()
    assert daemon.run("moorage", "wait", "native").split() == ["7"]


def test_the_worlds_do_not_see_each_other(daemon: Daemon, cri: CriClient, busybox: str) -> None:
    container, _ = start_both(daemon, cri, busybox, COUNTER)
    native = daemon.run("moorage", "ps", "-q", "--no-trunc").split()
    assert len(native) == 1
    assert [c.id for c in cri.ListContainers().containers] == [container]
    assert daemon.run("ctr", "-n", "k8s.io", "containers", "ls", "-q").split() == [container]
    assert daemon.run("ctr", "-n", "default", "containers", "ls", "-q").split() == native
    assert daemon.run("ctr", "-n", "default", "tasks", "ls", "-q").split() == native
    assert daemon.run("ctr", "-n", "nowhere", "containers", "ls", "-q").split() == []
    for command in (("containers", "info", container), ("tasks", "kill", container), ("containers", "rm", container)):
        refused = daemon.call("ctr", "-n", "default", *command)
        assert refused.returncode != 0
        assert "not found" in refused.stderr
    assert cri.status(container).state == cri_pb2.CONTAINER_RUNNING


def test_zygote_and_workshop_may_die(daemon: Daemon, cri: CriClient, busybox: str) -> None:
    container, log = start_both(daemon, cri, busybox, COUNTER)
    zygotes = processes_named(daemon.tag, ["moorage-zygote", "moorage-workshop"])
    assert len(zygotes) >= 2
    for pid in zygotes:
        os.kill(pid, signal.SIGKILL)
    assert cri.execute(container, "echo", "still here").stdout == b"still here\n"
    lines = len(cri_lines(log))
    wait_until(lambda: len(cri_lines(log)) > lines + 5)
    assert daemon.run("moorage", "run", "--rm", busybox, "echo", "a new shim").strip() == "a new shim"
    assert not set(processes_named(daemon.tag, ["moorage-zygote", "moorage-workshop"])) & set(zygotes)


def test_everything_goes_away(daemon: Daemon, cri: CriClient, busybox: str) -> None:
    start_both(daemon, cri, busybox, COUNTER)
    assert any("mount" in line for line in daemon.leftovers())
    cri.remove_all()
    daemon.run("moorage", "rm", "-f", "native")
    daemon.stop()
    wait_until(lambda: not daemon.leftovers())


def test_twenty_pods_are_light_and_quick(
    daemon: Daemon, cri: CriClient, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    timings = Timings()
    for number in range(PODS):
        ports = [cri_pb2.PortMapping(container_port=80, host_port=21000 + number)]
        config = pod_config(f"light-{number}", ports=ports)
        timings.time(lambda config=config: cri.run_pod(config))
    time.sleep(5)  # what a shim had to do is then done
    weights = shim_weights(daemon.tag)
    assert len(weights) == PODS
    mean = sum(weights) / len(weights) / 2**20
    record_property("pss_mib", mean)
    with capsys.disabled():
        print(f"\n{PODS} pods: {mean:.2f} MiB PSS a shim, RunPodSandbox {milliseconds(timings.seconds)}")
    assert mean < 4, "a shim weighs far more than it should"
    assert len(cri.ListPodSandbox().items) == PODS
    cri.remove_all()
