"""Shims both ways: Debian's under Moorage, and Moorage's under Debian's containerd; the same session with both."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moorage_api.linux import mount
from support.ctr import Ctr, lines, watched
from support.daemon import Daemon
from support.leftovers import tagged_processes
from support.peer import Peer
from support.runtime import DEBIAN_SOCKETS
from support.terminal import wait_until

DEBIAN = "containerd-shim-runc-v2"
CONFIG = f"""
[plugins."io.containerd.runtime.v2.task".runtimes."io.containerd.runc.v2"]
shim = "{DEBIAN}"
binary = "runc"
"""


class Node:
    """A daemon, `ctr` for it, and the runtime by which it starts the other's shim."""

    def __init__(self, daemon: Daemon | Peer, runtime: str, shim: str) -> None:
        self.daemon = daemon
        self.ctr = Ctr(daemon, "default")
        self.shim = shim
        self.flags = ["--runtime", runtime, "--fifo-dir", self.ctr.fifos]

    def run(self, *words: str) -> None:
        self.ctr("run", "-d", *self.flags, *words)

    def shims(self) -> list[int]:
        """The pids of the shims that run."""
        return [
            pid
            for pid, command in tagged_processes(self.daemon.tag).items()
            if self.shim in command and _name(pid).startswith(("containerd-shim", "moorage-shim"))
        ]

    def remove(self, id: str) -> None:
        self.ctr.call("tasks", "rm", "-f", id)
        self.ctr("containers", "rm", id)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


@contextmanager
def _without_debian_sockets() -> Iterator[None]:
    """Debian's shim has its sockets in a folder of the host's, and leaves them when it is killed."""
    before = set(DEBIAN_SOCKETS.glob("*"))
    yield
    for socket in set(DEBIAN_SOCKETS.glob("*")) - before:
        socket.unlink(missing_ok=True)


@pytest.fixture(scope="module", params=["moorage", "containerd"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    if request.param == "moorage":
        with _without_debian_sockets(), Daemon(CONFIG) as daemon:
            yield Node(daemon, "io.containerd.runc.v2", DEBIAN)
    else:
        with Peer() as peer:
            yield Node(peer, "io.containerd.moorage.v2", "containerd-shim-moorage-v2")


@pytest.fixture(scope="module")
def image(node: Node, busybox: str) -> str:
    node.ctr("images", "pull", "--plain-http", busybox)
    return busybox


@pytest.fixture
def web(node: Node, image: str) -> Iterator[str]:
    """A container that runs until it is killed."""
    node.run(image, "web", "sleep", "1000")
    yield "web"
    node.remove("web")


def test_it_is_the_other_s_shim(node: Node, web: str) -> None:
    assert len(node.shims()) == 1


def test_run(node: Node, image: str) -> None:
    done = node.ctr.call("run", "--rm", *node.flags, image, "once", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    wait_until(lambda: node.shims() == [], "the shim ends with its task")


def test_exec(node: Node, web: str) -> None:
    assert node.ctr.execute(web, "echo", "hello") == "hello\n"
    done = node.ctr.call("tasks", "exec", "--fifo-dir", node.ctr.fifos, "--exec-id", "seven", web, "sh", "-c", "exit 7")
    assert done.returncode == 7
    assert len(lines(node.ctr("tasks", "ps", web))) == 1


def test_pause_metrics_and_resume(node: Node, web: str) -> None:
    node.ctr("tasks", "pause", web)
    assert node.ctr.tasks()[web] == "PAUSED"
    node.ctr("tasks", "resume", web)
    assert node.ctr.tasks()[web] == "RUNNING"
    assert json.loads(node.ctr("tasks", "metrics", "--format", "json", web))["pids"]["current"] == 1


def test_terminals(node: Node, image: str) -> None:
    with node.ctr.terminal("run", "-d", "-t", *node.flags, image, "tty", "sh") as terminal:
        assert terminal.wait() == 0
    words = ["tasks", "exec", "-t", "--fifo-dir", node.ctr.fifos, "--exec-id", "second", "tty", "sh"]
    with node.ctr.terminal(*words, size=(70, 20)) as terminal:
        terminal.expect("# ")
        terminal.type("stty size; exit 5\n")
        terminal.expect("20 70")
        assert terminal.wait() == 5
    with node.ctr.terminal("tasks", "attach", "tty") as terminal:
        terminal.type("echo att''ached\n")
        terminal.expect("attached")
        terminal.type("exit 6\n")
        assert terminal.wait() == 6
    node.remove("tty")


def test_kinds_of_streams(node: Node, image: str, tmp_path: Path) -> None:
    """A file, a logging program, and nothing."""
    log, program, logged = (tmp_path / name for name in ("log", "program", "logged"))
    script = '#!/bin/sh\necho "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2"\nexec 5>&-\ncat <&3 >>"$2"\n'
    program.write_text(script)
    program.chmod(0o755)
    runtime = node.flags[:2]
    node.ctr("run", "-d", *runtime, "--log-uri", f"file://{log}", image, "filed", "echo", "hello")
    node.ctr("run", "-d", *runtime, "--log-uri", f"binary://{program}?--to={logged}", image, "piped", "echo", "hello")
    node.ctr("run", "-d", *runtime, "--null-io", image, "silent", "echo", "hello")
    wait_until(lambda: log.exists() and log.read_text() == "hello\n", "the file has it")
    wait_until(lambda: logged.exists() and logged.read_text() == "default/piped\nhello\n", "the program has it")
    wait_until(lambda: node.ctr.tasks()["silent"] == "STOPPED", "it ends")
    for id in ("filed", "piped", "silent"):
        node.remove(id)


def test_events(node: Node, image: str, tmp_path: Path) -> None:
    log = tmp_path / "events"
    with watched(node.ctr, log):
        node.run(image, "told", "sleep", "1000")
        node.ctr("tasks", "kill", "-s", "SIGKILL", "told")
        wait_until(lambda: node.ctr.tasks()["told"] == "STOPPED", "the task stops")
        node.remove("told")
        wait_until(lambda: "/containers/delete" in log.read_text(), "the last event is heard")
    told = [line.split(maxsplit=6) for line in log.read_text().splitlines()]
    mine = {words[5]: json.loads(words[6]) for words in told if '"told"' in words[6] and "/tasks/" in words[5]}
    assert list(mine) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert mine["/tasks/exit"]["exit_status"] == 128 + signal.SIGKILL
    assert mine["/tasks/create"]["pid"] == mine["/tasks/exit"]["pid"]


def test_a_restart_of_the_daemon_in_between(node: Node, image: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "echo before; trap 'echo after; exit 9' TERM; while :; do sleep 0.05; done"
    node.ctr("run", "-d", *node.flags[:2], "--log-uri", f"file://{log}", image, "kept", "sh", "-c", script)
    wait_until(lambda: log.read_text() == "before\n", "it has begun")
    shims = node.shims()
    node.daemon.restart()
    wait_until(lambda: node.ctr.call("tasks", "ls").returncode == 0, "the daemon is back")
    assert node.ctr.tasks()["kept"] == "RUNNING"
    assert node.shims() == shims
    assert node.ctr.execute("kept", "echo", "still here") == "still here\n"
    node.ctr("tasks", "kill", "kept")
    wait_until(lambda: node.ctr.tasks()["kept"] == "STOPPED", "its end is seen")
    assert log.read_text() == "before\nafter\n"
    assert node.ctr.call("tasks", "rm", "kept").stderr.count("exit code 9") == 1
    node.remove("kept")


def test_nothing_is_left(node: Node, image: str) -> None:
    node.run(image, "last", "sleep", "1000")
    root = next(point for point in _mounts(node) if "last" in point)
    node.remove("last")
    assert not mount.is_mountpoint(root)
    wait_until(lambda: node.shims() == [], "no shim is left")


def _mounts(node: Node) -> list[str]:
    return [entry.target for entry in mount.mountinfo() if entry.target.startswith(str(node.daemon.folder))]
