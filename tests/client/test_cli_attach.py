"""`attach`, and the log of what ran in the foreground."""

from __future__ import annotations

import subprocess
import time

from support.daemon import BIN
from support.terminal import wait_until

from .conftest import Cli


def test_what_ran_in_the_foreground_is_in_the_log(cli: Cli) -> None:
    done = cli.call("run", "--name", "said", cli.image, "sh", "-c", "echo out; echo error >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "error\n")
    logs = cli.call("logs", "said")
    assert (logs.stdout, logs.stderr) == ("out\n", "error\n")


def test_a_shell_is_left_and_joined_again(cli: Cli) -> None:
    cli("run", "-dit", "--name", "shell", cli.image, "sh")
    with cli.terminal("attach", "shell", size=(70, 21)) as terminal:
        terminal.type("echo si''ze $(stty size)\n")
        terminal.expect("size 21 70")
        terminal.resize(90, 33)
        wait_until(lambda: cli("exec", "shell", "stty", "-F", "/dev/pts/0", "size") == "33 90\n", "the new size")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
        assert not terminal.is_raw
    assert cli("ps", "--format", "{{.Names}}") == "shell\n"
    with cli.terminal("attach", "--detach-keys", "ctrl-x", "shell") as terminal:
        terminal.type("exit 4\n")
        assert terminal.wait() == 4
    assert "Exited (4)" in cli("ps", "-a")
    assert "size 21 70" in cli("logs", "shell")


def test_a_container_that_was_left_goes_on_however_much_it_says(cli: Cli) -> None:
    script = "read word; i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; exit 5"
    with cli.terminal("run", "-it", "--name", "talker", cli.image, "sh", "-c", script) as terminal:
        terminal.type("go\n")
        terminal.expect("line 5\r\n")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
    assert cli("wait", "talker") == "5\n"
    assert "line 29999" in cli("logs", "--tail", "1", "talker")


def test_input_from_several_clients_one_after_the_other(cli: Cli) -> None:
    cli("run", "-d", "-i", "--name", "echo", cli.image, "sh", "-c", "while read word; do echo got $word; done")
    with cli.popen("attach", "--no-stdin", "echo") as watching:
        assert watching.stdout is not None
        for word in ("one", "two"):
            # The end of a client's input is not the end of the container's, which was made for several.
            with subprocess.Popen(
                [BIN / "moorage", "attach", "echo"],
                env=cli.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(f"{word}\n")
                client.stdin.flush()
                assert client.stdout.readline() == f"got {word}\n"
                client.kill()
        wait_until(lambda: cli("logs", "echo") == "got one\ngot two\n", "both are in the log")
        cli("kill", "-s", "KILL", "echo")
        assert watching.wait(timeout=20) == 137
        assert watching.stdout.read().endswith("got two\n")


def test_what_does_not_run_is_not_attached(cli: Cli) -> None:
    cli("create", "--name", "idle", cli.image, "true")
    done = cli.call("attach", "idle")
    assert (done.returncode, "is not running" in done.stderr) == (1, True)
    assert cli.call("attach", "nobody").returncode == 1


def test_a_container_made_with_an_input_takes_it_at_its_start(cli: Cli) -> None:
    cli("create", "-i", "--name", "counter", cli.image, "wc", "-c")
    assert cli("start", "-a", "-i", "counter", input="12345").strip() == "5"
    cli("create", "--name", "deaf", cli.image, "wc", "-c")
    assert cli("start", "-a", "-i", "deaf", input="12345").strip() == "0"


def test_what_a_slow_reader_has_not_read_is_not_removed(cli: Cli) -> None:
    with cli.popen("run", "--rm", "--name", "long", cli.image, "seq", "100000") as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == "1\n"
        # It waits for its reader, whatever others do meanwhile, and longer than it is patient with one that is gone.
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert cli("ps", "-a", "--format", "{{.Names}}") == "long\n"
        assert reading.stdout.read().splitlines()[-1] == "100000"
        assert reading.wait(timeout=30) == 0
    wait_until(lambda: cli("ps", "-aq") == "", "it is removed")


def test_only_the_streams_that_are_asked_for(cli: Cli) -> None:
    script = ("sh", "-c", "cat; echo out; echo error >&2; exit 3")
    shown = cli.call("run", "--rm", "-i", "-a", "stdin", "-a", "stderr", cli.image, *script, input="word\n")
    assert (shown.returncode, shown.stdout, shown.stderr) == (3, "", "error\n")
    id = cli("run", "-i", "-a", "stdin", "--name", "fed", cli.image, *script, input="word\n")
    assert cli("ps", "-aq", "--no-trunc") == id
    assert cli("wait", "fed") == "3\n"
    logs = cli.call("logs", "fed")
    assert (logs.stdout, logs.stderr) == ("word\nout\n", "error\n")
    # One that ends without reading all.
    assert len(cli("run", "--rm", "-i", "-a", "stdin", cli.image, "true", input="x" * 1_000_000).strip()) == 64
    wait_until(lambda: cli("ps", "-aq", "--no-trunc") == id, "the daemon removes it")
    refused = cli.call("run", "-d", "-a", "stdout", cli.image, "true")
    assert (refused.returncode, "conflicting" in refused.stderr) == (125, True)
