"""`-it`: a shell on a pseudo-terminal, its size, its keys, and the user's terminal afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable

from support.terminal import wait_until

from .conftest import Cli


def test_a_shell_on_a_terminal(cli: Cli, io_folders: Callable[[], set[str]]) -> None:
    before = io_folders()
    with cli.terminal("run", "-it", "--rm", cli.image, "sh", size=(97, 31)) as terminal:
        terminal.expect("# ")
        assert terminal.is_raw
        terminal.type("stty size; tty; echo $TERM\n")
        assert "31 97" in terminal.expect("xterm")
        terminal.resize(120, 40)
        wait_until(lambda: "40 120" in _size(terminal), "the new size")
        # Control-C is a key of the container's terminal, not a signal to the client.
        terminal.type("sh -c 'echo begun; sleep 100'\n")
        terminal.expect("begun\r\n")
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("echo code $?\n")
        terminal.expect("code 130")
        terminal.type("exit 7\n")
        assert terminal.wait() == 7
        assert not terminal.is_raw
    assert cli("ps", "-aq") == ""
    assert io_folders() <= before


def _size(terminal: object) -> str:
    terminal.type("stty size; echo end-$((1))\n")  # type: ignore[attr-defined]
    return terminal.expect("end-1")  # type: ignore[attr-defined, no-any-return]


def test_detaching_leaves_the_container_running(cli: Cli, io_folders: Callable[[], set[str]]) -> None:
    before = io_folders()
    with cli.terminal("run", "-it", "--rm", "--name", "kept", cli.image, "sh") as terminal:
        terminal.expect("# ")
        terminal.type("echo \x10still; echo here\n")
        terminal.expect("here\r\n")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
        assert not terminal.is_raw
    assert cli("ps", "--format", "{{.Names}} {{.State}}") == "kept running\n"
    assert cli("exec", "kept", "echo", "alive") == "alive\n"
    cli("rm", "-f", "kept")
    assert io_folders() <= before


def test_exec_on_a_terminal(cli: Cli) -> None:
    cli.run_detached("sleep", "100", name="host")
    with cli.terminal("exec", "-it", "host", "sh", size=(70, 20)) as terminal:
        terminal.expect("# ")
        wait_until(lambda: "20 70" in _size(terminal), "the size of the terminal")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3
        assert not terminal.is_raw


def test_a_terminal_without_input(cli: Cli) -> None:
    assert cli("run", "-t", "--rm", cli.image, "tty") == "/dev/pts/0\n"


def test_input_that_is_no_terminal_is_refused(cli: Cli) -> None:
    done = cli.call("run", "-it", "--rm", cli.image, "sh")
    assert done.returncode == 1
    assert "not a terminal" in done.stderr
    assert cli("ps", "-aq") == ""


def test_a_detached_shell_waits_on_its_terminal(cli: Cli) -> None:
    cli("run", "-dit", "--name", "shell", cli.image, "sh")
    assert cli("exec", "shell", "cat", "/proc/1/comm") == "sh\n"
    assert "Up" in cli("ps")


def test_the_terminal_is_restored_when_the_client_is_told_to_end(cli: Cli) -> None:
    with cli.terminal("run", "-it", "--no-sig-proxy", "--name", "told", cli.image, "sh") as terminal:
        terminal.expect("# ")
        terminal.send_signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert not terminal.is_raw


def test_a_pull_on_a_terminal_shows_bars(cli: Cli) -> None:
    cli("rmi", cli.image)
    with cli.terminal("pull", cli.image, size=(120, 24)) as terminal:
        terminal.expect("layer ")
        terminal.expect("Digest: sha256:")
        terminal.expect(cli.image)
        assert terminal.wait() == 0
