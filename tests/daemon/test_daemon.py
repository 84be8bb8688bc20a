"""The daemon as a process: ready, alone on its root and address, and gone when told."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.daemon import BIN, Daemon

MOORAGED = str(BIN / "mooraged")
# These daemons have the usual configuration otherwise; their NRI socket would be the host's.
NO_NRI = "[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n"


def second(daemon: Daemon, **flags: str) -> subprocess.CompletedProcess[str]:
    """Try to start another daemon that shares with `daemon` all but what `flags` change."""
    words = {"root": str(daemon.root), "state": str(daemon.state), "address": daemon.address, **flags}
    words["config"] = str(daemon.config_file)
    return daemon.call(MOORAGED, *(word for name, value in words.items() for word in (f"--{name}", value)))


def answers(daemon: Daemon) -> bool:
    return "Server:" in daemon.run("ctr", "version")


class TestOneDaemon:
    """A second one on the same root, state or address is told so, and harms nothing."""

    @pytest.mark.parametrize("shared", ["root", "state", "address"])
    def test_it_is_refused(self, shared_daemon: Daemon, tmp_path: Path, shared: str, short_tmp: Path) -> None:
        others = {"root": str(tmp_path / "r"), "state": str(tmp_path / "s"), "address": str(short_tmp / "a.sock")}
        del others[shared]
        refused = second(shared_daemon, **others)
        assert refused.returncode == 1
        assert shared_daemon.process is not None
        value = {"root": shared_daemon.root, "state": shared_daemon.state, "address": shared_daemon.address}[shared]
        assert refused.stderr.strip() == (
            f"mooraged: {shared} {value} is in use by another daemon (pid {shared_daemon.process.pid})"
        )
        assert answers(shared_daemon)

    def test_another_server_on_the_address(self, shared_daemon: Daemon, tmp_path: Path, short_tmp: Path) -> None:
        address = str(short_tmp / "other.sock")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(address)
            other.listen()
            refused = second(shared_daemon, root=str(tmp_path / "r"), state=str(tmp_path / "s"), address=address)
            assert (refused.returncode, refused.stderr.strip()) == (1, f"mooraged: another server answers on {address}")
            assert stat.S_ISSOCK(os.stat(address).st_mode)


def test_files_and_folders_are_private(daemon: Daemon) -> None:
    assert stat.S_IMODE(os.stat(daemon.address).st_mode) == 0o600
    assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
    # To be passed through, not to be read.
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o711


def test_a_killed_daemon_leaves_nothing_in_the_way(daemon: Daemon) -> None:
    uuid = daemon.run("ctr", "version").split("UUID:")[1]
    daemon.kill()
    assert os.path.exists(daemon.address)
    daemon.start()
    assert daemon.run("ctr", "version").split("UUID:")[1] == uuid


def test_it_stops_in_time_with_streams_open(daemon: Daemon) -> None:
    watcher = subprocess.Popen(
        ["ctr", "events"], env=daemon.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        time.sleep(0.3)
        before = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - before < 5
        _, told = watcher.communicate(timeout=10)
    finally:
        watcher.kill()
    assert b"Unavailable" in told or b"unavailable" in told
    assert "level=info msg=stopped" in daemon.log()


@contextmanager
def notified(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(20)
        yield receiver


def test_it_tells_the_service_manager(daemon: Daemon, short_tmp: Path) -> None:
    daemon.stop()
    with notified(short_tmp / "n") as receiver:
        process = subprocess.Popen(
            daemon.command(),
            env={**daemon.environment, "NOTIFY_SOCKET": str(short_tmp / "n")},
            stderr=subprocess.DEVNULL,
        )
        assert receiver.recv(4096).decode().split("\n") == ["READY=1", f"MAINPID={process.pid}"]
        # Ready means ready: the very first call is answered.
        assert answers(daemon)
        process.send_signal(signal.SIGINT)
        assert receiver.recv(4096) == b"STOPPING=1"
        assert process.wait(20) == 0


def test_a_required_plugin_that_fails_stops_the_start(short_tmp: Path) -> None:
    config = short_tmp / "c.toml"
    uri = "io.containerd.internal.v1.core"
    config.write_text(f"disabled_plugins = ['io.containerd.event.v1.exchange']\nrequired_plugins = ['{uri}']\n{NO_NRI}")
    where = ["--root", short_tmp / "r", "--state", short_tmp / "s", "--address", short_tmp / "a"]
    done = subprocess.run([MOORAGED, "-c", config, *where], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    [message] = [line for line in done.stderr.splitlines() if line.startswith("mooraged:")]
    assert message.startswith(f"mooraged: required plugins have not started: no plugin {uri} has started")
    assert "io.containerd.event.v1.exchange disabled" in message
    assert not (short_tmp / "a").exists()


def test_json_lines(short_tmp: Path) -> None:
    config = short_tmp / "c.toml"
    config.write_text(NO_NRI)
    where = ["-c", config, "--root", short_tmp / "r", "--state", short_tmp / "s", "--address", short_tmp / "a"]
    with notified(short_tmp / "n") as receiver, (short_tmp / "log").open("w") as log:
        process = subprocess.Popen(
            [MOORAGED, *where, "--log-format", "json", "-l", "trace"],
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(short_tmp / "n")},
        )
        receiver.recv(4096)
        subprocess.run(["ctr", "-a", short_tmp / "a", "version"], check=True, capture_output=True)
        process.terminate()
        assert process.wait(30) == 0
    lines = (short_tmp / "log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
    records = [json.loads(line) for line in lines]
    assert all({"time", "level", "msg"} <= record.keys() for record in records)
    calls = [record for record in records if record["msg"] == "call"]
    assert "/containerd.services.version.v1.Version/Version" in [record["method"] for record in calls]


HANGING = """
import sys, threading
import mooraged.daemon
mooraged.daemon._GRACE, mooraged.daemon._MARGIN = 0.1, 0.5
threading.Thread(target=threading.Event().wait, name="stuck").start()
from mooraged.__main__ import main
main()
"""


def test_a_thread_that_hangs_does_not_keep_it(short_tmp: Path) -> None:
    config = short_tmp / "c.toml"
    config.write_text(f"[timeouts]\nshutdown = 1.0\n{NO_NRI}")
    where = ["-c", config, "--root", short_tmp / "r", "--state", short_tmp / "s", "--address", short_tmp / "a"]
    with notified(short_tmp / "n") as receiver:
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING, *where],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(short_tmp / "n")},
        )
        receiver.recv(4096)
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert 'msg="still not stopped: ending by force"' in log
    assert "stuck" in log


def test_the_command_says_its_version() -> None:
    done = subprocess.run([MOORAGED, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mooraged, version 0.")
