"""Debian's dockerd (docker.io 20.10) with Moorage as its containerd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import BIN, Daemon
from support.dockerd import Dockerd
from support.images import busybox_layer
from support.terminal import Terminal, wait_until

IMAGE = "busybox:test"


@pytest.fixture(scope="module")
def docker(shared_daemon: Daemon) -> Iterator[Dockerd]:
    """A dockerd with the image in it; tests may restart it and its Moorage, and leave both running."""
    with Dockerd(shared_daemon) as running:
        archive = shared_daemon.folder / "busybox.tar"
        archive.write_bytes(busybox_layer())
        running("import", str(archive), IMAGE)
        yield running


@pytest.fixture
def web(docker: Dockerd) -> Iterator[str]:
    """The id of a container that says `tick` now and then, and heeds SIGTERM."""
    script = "trap 'exit 5' TERM; while :; do echo tick; sleep 0.1; done"
    id = docker("run", "-d", "--network=none", IMAGE, "sh", "-c", script)
    yield id
    docker("rm", "-f", id)


def state(docker: Dockerd, id: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(docker("inspect", "--format", "{{json .State}}", id))
    return found


def ticks(docker: Dockerd, id: str) -> int:
    return docker("logs", id).count("tick")


def test_run_in_the_foreground(docker: Dockerd) -> None:
    done = docker.call("run", "--rm", "--network=none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    missing = docker.call("run", "--rm", "--network=none", IMAGE, "/absent")
    assert missing.returncode == 127
    assert "/absent" in missing.stderr
    assert docker("ps", "-aq") == ""


def test_run_and_exec_on_a_terminal(docker: Dockerd) -> None:
    command = docker.command("run", "-it", "--name=tty", "--network=none", IMAGE, "sh")
    with Terminal(command, docker.environment, (100, 30)) as terminal:
        terminal.expect("# ")
        terminal.type("tty; echo si''ze $(stty size)\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("size 30 100")
        terminal.resize(120, 40)
        wait_until(lambda: docker("exec", "tty", "sh", "-c", "stty size </dev/pts/0") == "40 120", "the new size")
        with Terminal(docker.command("exec", "-it", "tty", "sh"), docker.environment, (80, 24)) as second:
            second.expect("# ")
            second.type("exit 4\n")
            assert second.wait() == 4
        terminal.type("exit 6\n")
        assert terminal.wait() == 6
    docker("rm", "tty")


def test_run_reads_its_input(docker: Dockerd) -> None:
    command = docker.command("run", "-i", "--rm", "--network=none", IMAGE, "wc", "-c")
    data = b"x" * 300_000
    done = subprocess.run(command, env=docker.environment, input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout.strip() == b"300000"


def test_exec(docker: Dockerd, web: str) -> None:
    assert docker("exec", web, "echo", "hello") == "hello"
    assert docker.call("exec", web, "sh", "-c", "exit 7").returncode == 7
    assert docker("exec", "-u", "33", "-w", "/var/www", "-e", "A=b", web, "sh", "-c", "id -u; pwd; echo $A") == (
        "33\n/var/www\nb"
    )
    assert "tick" in docker("top", web)


def test_logs_and_stats(docker: Dockerd, web: str) -> None:
    wait_until(lambda: ticks(docker, web) > 2, "it says something")
    row = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", web))
    assert int(row["PIDs"]) >= 1
    assert row["MemUsage"].split()[0] != "0B"
    docker("update", "--memory=64m", "--memory-swap=64m", web)
    row = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", web))
    assert row["MemUsage"].endswith("64MiB")


def test_pause_and_unpause(docker: Dockerd, web: str) -> None:
    docker("pause", web)
    assert state(docker, web)["Status"] == "paused"
    assert "paused" in docker.call("exec", web, "true").stderr
    docker("unpause", web)
    before = ticks(docker, web)
    wait_until(lambda: ticks(docker, web) > before, "it goes on")


def test_stop_start_kill_restart(docker: Dockerd, web: str) -> None:
    docker("stop", web)
    assert (state(docker, web)["Status"], state(docker, web)["ExitCode"]) == ("exited", 5)
    docker("start", web)
    docker("kill", web)
    wait_until(lambda: state(docker, web)["Status"] == "exited", "it is dead")
    assert state(docker, web)["ExitCode"] == 137
    docker("restart", web)
    before = state(docker, web)["Pid"]
    docker("restart", web)
    assert state(docker, web)["Running"]
    assert state(docker, web)["Pid"] != before


def test_a_container_that_dies_is_started_again(docker: Dockerd) -> None:
    id = docker("run", "-d", "--restart=on-failure:2", "--network=none", IMAGE, "sh", "-c", "exit 9")
    wait_until(
        lambda: docker("inspect", "--format", "{{.RestartCount}} {{.State.Status}}", id) == "2 exited", "it ends"
    )
    docker("rm", id)


def test_memory_beyond_the_limit_is_told(docker: Dockerd) -> None:
    id = docker("run", "-d", "--memory=16m", "--memory-swap=16m", "--network=none", IMAGE, "tail", "/dev/zero")
    wait_until(lambda: state(docker, id)["Status"] == "exited", "it is killed")
    assert state(docker, id)["ExitCode"] == 137
    wait_until(lambda: state(docker, id)["OOMKilled"] is True, "the reason is told")
    docker("rm", id)


def test_each_client_sees_its_own(docker: Dockerd, web: str, busybox: str) -> None:
    daemon = docker.daemon
    moorage = str(BIN / "moorage")
    daemon.run(moorage, "run", "-d", "--name", "native", "--network", "none", busybox, "sleep", "1000", timeout=90)
    try:
        assert web[:12] not in daemon.run(moorage, "ps", "-a")
        assert web in daemon.run("ctr", "-n", "moby", "tasks", "ls")
        assert web not in daemon.run("ctr", "-n", "k8s.io", "containers", "ls")
        assert docker("ps", "-aq", "--no-trunc").split() == [web]
        assert "native" in daemon.run(moorage, "ps")
    finally:
        daemon.run(moorage, "rm", "-f", "native")


def test_a_restart_of_dockerd_leaves_containers_running(docker: Dockerd, web: str) -> None:
    pid = state(docker, web)["Pid"]
    docker.stop()
    assert Path(f"/proc/{pid}").exists()
    docker.start()
    assert (state(docker, web)["Status"], state(docker, web)["Pid"]) == ("running", pid)
    assert docker("exec", web, "echo", "there") == "there"
    before = ticks(docker, web)
    wait_until(lambda: ticks(docker, web) > before, "its output goes on into the log")
    docker("stop", web)
    assert state(docker, web)["ExitCode"] == 5


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_of_moorage_leaves_containers_running(docker: Dockerd, web: str, how: str) -> None:
    pid = state(docker, web)["Pid"]
    getattr(docker.daemon, how)()
    assert Path(f"/proc/{pid}").exists()
    docker.daemon.start()
    wait_until(lambda: docker.call("exec", web, "true").returncode == 0, "dockerd has found it again", timeout=60)
    before = ticks(docker, web)
    wait_until(lambda: ticks(docker, web) > before, "its output goes on into the log")
    # Its end is told to dockerd, which listens to events again.
    docker("kill", web)
    wait_until(lambda: state(docker, web)["Status"] == "exited", "its end is seen", timeout=60)
    assert docker("run", "--rm", "--network=none", IMAGE, "echo", "new") == "new"
