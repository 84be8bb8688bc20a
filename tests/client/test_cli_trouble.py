"""What users meet when things go wrong: one line that says what, an exit code, and never a traceback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.terminal import wait_until

from .conftest import Cli


def shell(cli: Cli, line: str) -> subprocess.CompletedProcess[str]:
    """A line for the shell, with `$IMAGE` in its environment."""
    environment = {**cli.environment, "IMAGE": cli.image}
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "line",
    [
        "moorage plugins | head -n 1 >/dev/null",
        "moorage plugins | true",
        "moorage inspect $IMAGE | true",
        "moorage save $IMAGE | head -c 10 >/dev/null",
        "moorage run --rm $IMAGE yes | head -n 1 >/dev/null",
        "moorage --help | true",
    ],
)
def test_a_reader_that_leaves_is_no_trouble(cli: Cli, line: str) -> None:
    assert shell(cli, line).stderr == ""


@pytest.mark.parametrize(
    "words",
    ["plugins", "inspect $IMAGE", "images -q", "save $IMAGE", "run --rm $IMAGE seq 100000", "--help", "version"],
)
def test_a_full_disk_is_told(cli: Cli, words: str) -> None:
    done = shell(cli, f"moorage {words} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "moorage: cannot write: No space left on device\n")
    wait_until(lambda: cli("ps", "-aq") == "", "nothing is left")


@pytest.mark.parametrize("words", ["images", "run --rm $IMAGE echo x"])
def test_streams_that_are_closed(cli: Cli, words: str) -> None:
    assert "Traceback" not in shell(cli, f"moorage {words} >&-").stderr
    assert shell(cli, f"moorage {words} 2>&-").returncode == 0
    assert shell(cli, f"moorage {words} <&-").returncode == 0


@pytest.mark.parametrize("words", [["events"], ["stats"], ["logs", "-f", "idle"], ["wait", "idle"], ["attach", "idle"]])
def test_an_interrupt_ends_what_waits(cli: Cli, words: list[str]) -> None:
    cli.run_detached("sh", "-c", "trap 'exit 130' INT; echo there; while :; do sleep 0.1; done", name="idle")
    cli.wait_for_log("idle", "there")
    with cli.popen(*words) as running:
        wait_until(lambda: _catches(running.pid), "it has begun")
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 130
        assert running.stderr is not None
        assert running.stderr.read().strip() == ""


def _catches(pid: int) -> bool:
    """Whether a process has a connection, so that it is past its beginning."""
    return any("socket:" in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink())


def test_an_interrupt_while_it_is_loaded_is_no_traceback() -> None:
    program = "import sys; sys.argv[0] = '/bin/moorage'; import moorage.cli, signal; signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_an_interrupt_ends_a_pull(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        running = cli.popen("pull", f"127.0.0.1:{silent.getsockname()[1]}/never:1")
        connection, _ = silent.accept()
        with connection:
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=30)
    assert (running.returncode, "Traceback" in told) == (130, False)


def test_a_daemon_that_dies_is_told(daemon: Daemon, busybox: str) -> None:
    cli = Cli(daemon, busybox, "default")
    cli("pull", "-q", busybox)
    cli.run_detached("sleep", "1000", name="idle")
    # As patient as ever, but for the time that a daemon is given to come back.
    program = "import moorage.process as p; p._RESTART_SECONDS = 1.0; from moorage.cli.app import main; main()"
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", program, *words],
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in (["events"], ["logs", "-f", "idle"], ["stats"], ["wait", "idle"])
    ]
    for running in commands:
        wait_until(lambda pid=running.pid: _catches(pid), "it has begun")  # type: ignore[misc]
    daemon.kill()
    for running in commands:
        _, told = running.communicate(timeout=60)
        assert (running.returncode, told.count("\n"), told[:33]) == (1, 1, "moorage: cannot reach the daemon ")
