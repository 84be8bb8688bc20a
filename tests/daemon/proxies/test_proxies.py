"""Plugins in other processes, both ways, with real daemons on either side."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.ctr import Ctr
from support.daemon import BIN, Daemon
from support.peer import Peer


@contextmanager
def served(plugin: str, address: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`moorage plugin serve`, killed at the end if it is still there."""
    command = [str(BIN / "moorage"), "plugin", "serve", plugin, "--address", str(address), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "serving" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def proxy(name: str, type: str, address: object) -> str:
    return f'[proxy_plugins.{name}]\ntype = "{type}"\naddress = "{address}"\n'


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native", "erofs"])
def test_containerd_runs_a_container_on_a_snapshotter_of_ours(short_tmp: Path, busybox: str, snapshotter: str) -> None:
    address = short_tmp / "s.sock"
    with served(snapshotter, address, "--root", str(short_tmp / "root")) as process, Peer() as peer:
        config = peer.folder / "config.toml"
        config.write_text(config.read_text() + proxy("example", "snapshot", address))
        assert peer.process is not None
        peer.process.terminate()
        peer.process.wait()
        peer.start()

        def ctr(*words: str) -> str:
            command = ["ctr", "-n", "test", *words]
            done = subprocess.run(command, env=peer.environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr + peer.log_file.read_text()[-2000:]
            return done.stdout

        ctr("images", "pull", "--plain-http", "--snapshotter", "example", busybox)
        said = ctr("run", "--rm", "--snapshotter", "example", busybox, "one", "sh", "-c", "echo hi > /new; cat /new")
        assert said == "hi\n"
        assert "Committed" in ctr("snapshots", "--snapshotter", "example", "ls")
        ctr("images", "rm", "--sync", busybox)
        assert ctr("snapshots", "--snapshotter", "example", "ls").count("\n") == 1
        # In order, so that what it has mounted is not left behind.
        process.terminate()
        process.wait(30)


def test_a_container_on_containerds_snapshotter(busybox: str) -> None:
    """The other way round: containerd's own service is the other process."""
    with Peer() as peer:
        disabled = 'disabled_plugins = ["io.containerd.snapshotter.v1.native"]\n'
        table = proxy("native", "snapshot", peer.address) + 'capabilities = ["copies"]\n'
        with _with_first(Daemon(table), disabled) as daemon:
            ctr = Ctr(daemon, "one")
            ctr("images", "pull", "--plain-http", "--snapshotter", "native", busybox)
            done = ctr.once("--snapshotter", "native", busybox, "box", "sh", "-c", "echo hi > /new; cat /new")
            assert done.stdout == "hi\n", done.stderr
            theirs = subprocess.run(
                ["ctr", "-n", "default", "snapshots", "--snapshotter", "native", "ls"],
                env=peer.environment,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "one/" in theirs.stdout, "the snapshot is containerd's"
            assert "copies" in daemon.run("moorage", "plugin", "ls", "--format", "json")


def _with_first(daemon: Daemon, keys: str) -> Daemon:
    """`daemon` with keys of the top level in its configuration."""
    daemon.config_file.write_text(daemon.config_file.read_text().replace("version = 3\n", f"version = 3\n{keys}"))
    return daemon


def test_running_containers_survive_the_death_of_their_snapshotter(short_tmp: Path, busybox: str) -> None:
    address, root = short_tmp / "s.sock", ("--root", str(short_tmp / "root"))
    with Daemon(proxy("away", "snapshot", address)) as daemon:
        ctr = Ctr(daemon, "one")
        assert "does not answer" in ctr.fails("images", "pull", "--plain-http", "--snapshotter", "away", busybox)
        with served("overlayfs", address, *root):
            _until(lambda: not ctr.call("images", "pull", "--plain-http", "--snapshotter", "away", busybox).returncode)
            ctr("run", "-d", "--fifo-dir", ctr.fifos, "--snapshotter", "away", busybox, "box", "sleep", "1000")
        # Its process is dead now.
        assert ctr.tasks() == {"box": "RUNNING"}
        assert ctr.execute("box", "echo", "alive") == "alive\n"
        before = time.monotonic()
        failed = ctr.fails("snapshots", "--snapshotter", "away", "usage", "box")
        assert "unavailable" in failed.lower() or "does not answer" in failed
        assert time.monotonic() - before < 5
        assert daemon.run("moorage", "run", "--rm", busybox, "echo", "fine") == "fine\n", "others are not touched"
        with served("overlayfs", address, *root):
            _until(lambda: not ctr.call("snapshots", "--snapshotter", "away", "usage", "box").returncode)
            ctr("tasks", "kill", "-s", "SIGKILL", "box")
            _until(lambda: ctr.tasks().get("box") != "RUNNING")
            ctr("tasks", "rm", "-f", "box")
            ctr("containers", "rm", "box")


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_content_and_differ_in_other_processes(short_tmp: Path, busybox: str) -> None:
    content, differ = short_tmp / "c.sock", short_tmp / "d.sock"
    top = 'disabled_plugins = ["io.containerd.content.v1.content"]\n'
    tables = (
        proxy("blobs", "content", content)
        + proxy("layers", "diff", differ)
        + '[plugins."io.containerd.service.v1.diff-service"]\ndefault = ["layers"]\n'
    )
    daemon = _with_first(Daemon(tables), top)
    with ExitStack() as stack:
        stack.enter_context(served("content", content, "--root", str(short_tmp / "content")))
        stack.enter_context(served("walking", differ, "--root", str(short_tmp / "differ"), "--content", daemon.address))
        stack.enter_context(daemon)
        assert daemon.run("moorage", "pull", "-q", busybox)
        assert daemon.run("moorage", "run", "--rm", busybox, "echo", "hi") == "hi\n"
        assert not list((daemon.root / "io.containerd.content.v1.content").glob("blobs/*/*"))
        assert list((short_tmp / "content").glob("blobs/*/*"))


def test_a_name_that_is_taken(short_tmp: Path) -> None:
    with Daemon(proxy("native", "snapshot", short_tmp / "s.sock")) as daemon:
        shown = daemon.run("moorage", "plugin", "ls")
        assert "native-proxy" in shown
        assert "is installed: give the one in proxy_plugins another name" in shown
