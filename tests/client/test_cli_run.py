"""`moorage run` and its kin against a real daemon: streams, exit codes, the life of a container."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.daemon import BIN
from support.terminal import wait_until

from .conftest import Cli


def test_output_input_and_exit_code_are_the_commands(cli: Cli) -> None:
    script = "cat; echo error >&2; exit 42"
    done = cli.call("run", "-i", "--rm", cli.image, "sh", "-c", script, input="given\n")
    assert (done.returncode, done.stdout, done.stderr) == (42, "given\n", "error\n")
    assert cli("ps", "-aq") == ""


def test_much_goes_through_whole_both_ways(cli: Cli) -> None:
    text = "0123456789abcde\n" * 100_000
    assert cli("run", "-i", "--rm", cli.image, "cat", input=text) == text


def test_without_i_there_is_no_input(cli: Cli) -> None:
    assert cli("run", "--rm", cli.image, "cat", input="not given") == ""


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [(["no-such-program"], 127, "not found"), (["/etc"], 126, ""), (["/etc/passwd"], 126, "")],
)
def test_what_cannot_be_run_has_dockers_codes_and_leaves_nothing(
    cli: Cli, command: list[str], code: int, message: str
) -> None:
    done = cli.call("run", "--rm", cli.image, *command)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("moorage: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert cli("ps", "-aq") == ""


def test_a_killed_command_exits_with_128_and_the_signal(cli: Cli) -> None:
    assert cli.call("run", "--rm", cli.image, "sh", "-c", "kill -9 $$").returncode in (0, 137)
    # A container's first process ignores its own signals; one from outside counts.
    id = cli.run_detached("sleep", "100")
    cli("kill", id)
    assert cli("wait", id) == "137\n"


def test_the_options_reach_the_container(cli: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host\n")
    (tmp_path / "env").write_text("# a comment\n\nFROM_FILE=1 2\n")
    script = "echo $A:$FROM_FILE; id -u; id -G; pwd; hostname; cat /data/file; touch /data/new /new 2>&1; true"
    output = cli(
        *("run", "--rm", "-e", "A=b", "--env-file", str(tmp_path / "env"), "-u", "www-data", "-w", "/tmp"),
        *("-h", "boat", "-v", f"{tmp_path}:/data:ro", "--read-only", "--tmpfs", "/scratch", "--entrypoint", "sh"),
        *(cli.image, "-c", script),
    )
    lines = output.splitlines()
    assert lines[:6] == ["b:1 2", "33", "33 50", "/tmp", "boat", "from the host"]
    assert all("Read-only file system" in line for line in lines[6:])
    assert len(lines) == 8


def test_networks(cli: Cli) -> None:
    own = cli("run", "--rm", cli.image, "ls", "/sys/class/net").split()
    assert own == ["lo"]
    host = cli("run", "--rm", "--network", "host", cli.image, "readlink", "/proc/self/ns/net").strip()
    assert host == os.readlink("/proc/self/ns/net")
    hosts = cli("run", "--rm", "--network", "host", cli.image, "cat", "/etc/hosts")
    assert hosts == Path("/etc/hosts").read_text()


def test_limits_are_the_cgroups(cli: Cli) -> None:
    id = cli("run", "-d", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", cli.image, "sleep", "100").strip()
    config = json.loads(cli("inspect", id))[0]["HostConfig"]
    assert (config["Memory"], config["NanoCpus"], config["PidsLimit"]) == (64 << 20, 500_000_000, 20)
    found = [path for path in Path("/sys/fs/cgroup").rglob(id) if path.is_dir()]
    values = {
        value.read_text().strip()
        for path in found
        for name in ("memory.limit_in_bytes", "memory.max", "pids.max")
        if (value := path / name).exists()
    }
    assert {str(64 << 20), "20"} <= values


def test_privileges(cli: Cli) -> None:
    read = ("grep", "CapEff", "/proc/self/status")
    plain = int(cli("run", "--rm", cli.image, *read).split()[1], 16)
    none = int(cli("run", "--rm", "--cap-drop", "all", cli.image, *read).split()[1], 16)
    privileged = int(cli("run", "--rm", "--privileged", cli.image, *read).split()[1], 16)
    assert none == 0
    assert plain & privileged == plain != privileged


def test_a_detached_container_from_start_to_removal(cli: Cli) -> None:
    id = cli.run_detached("sh", "-c", "echo one; echo two >&2; sleep 100", name="boat")
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    lines = cli("ps").splitlines()
    assert lines[0].split("  ")[0] == "CONTAINER ID"
    assert re.match(rf'{id[:12]} .* "sh -c .* Up .* boat$', lines[1])
    assert cli("ps", "-q").split() == [id[:12]]
    assert cli("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}") == f"{id} boat running\n"
    cli.wait_for_log("boat", "two")
    refused = cli.call("rm", "boat")
    assert refused.returncode == 1
    assert "is running" in refused.stderr
    assert cli("stop", "-t", "0.1", id[:8]) == f"{id[:8]}\n"
    assert cli("ps", "-q") == ""
    assert "Exited (137)" in cli("ps", "-a")
    log = Path(json.loads(cli("inspect", "boat"))[0]["LogPath"])
    assert log.exists()
    cli("rm", "boat")
    assert cli("ps", "-aq") == ""
    assert not log.parent.exists()


def test_a_stopped_container_starts_again_with_its_files(cli: Cli) -> None:
    cli.run_detached("sh", "-c", "echo run >> /count; cat /count; exit 3", name="again")
    assert cli("wait", "again") == "3\n"
    assert cli("start", "again") == "again\n"
    assert cli("wait", "again") == "3\n"
    wait_until(lambda: cli("logs", "again") == "run\nrun\nrun\n", "both runs in the log")
    done = cli.call("start", "-a", "again")
    assert (done.returncode, done.stdout) == (3, "run\nrun\nrun\n")
    assert "Exited (3)" in cli("ps", "-a")


def test_created_is_not_started(cli: Cli) -> None:
    id = cli("create", "--name", "later", cli.image, "echo", "hello").strip()
    assert cli("ps", "-a", "--format", "{{.Status}}") == "Created\n"
    assert cli("stop", "later") == "later\n"
    assert cli("start", "-a", id) == "hello\n"


def test_exec(cli: Cli, tmp_path: Path) -> None:
    cli.run_detached("sleep", "100", name="host")
    done = cli.call("exec", "-i", "host", "sh", "-c", "cat; echo error >&2; exit 9", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (9, "in\n", "error\n")
    script = "echo $A; id -u; id -G; pwd"
    assert (
        cli("exec", "-e", "A=b", "-u", "www-data", "-w", "/tmp", "host", "sh", "-c", script) == "b\n33\n33 50\n/tmp\n"
    )
    (tmp_path / "env").write_text("FROM_FILE=x\n")
    caps = cli(
        "exec",
        "--privileged",
        "--env-file",
        str(tmp_path / "env"),
        "host",
        "sh",
        "-c",
        "echo $FROM_FILE; grep CapEff /proc/self/status",
    )
    assert caps.split()[0] == "x"
    assert int(caps.split()[2], 16) > int(cli("exec", "host", "grep", "CapEff", "/proc/self/status").split()[1], 16)
    assert cli.call("exec", "host", "no-such-program").returncode == 127
    assert cli.call("exec", "host", "/etc").returncode == 126
    cli("exec", "-d", "host", "touch", "/made")
    wait_until(lambda: cli.call("exec", "host", "test", "-e", "/made").returncode == 0, "the file of the exec")
    cli("stop", "-t", "0.1", "host")
    stopped = cli.call("exec", "host", "true")
    assert (stopped.returncode, "is not running" in stopped.stderr) == (1, True)


def test_signals_are_passed_on(cli: Cli) -> None:
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with cli.popen("run", "--rm", cli.image, "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "caught\n"
        assert running.wait(timeout=20) == 5
    assert cli("ps", "-aq") == ""


def test_stop_signal(cli: Cli) -> None:
    script = "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done"
    cli("run", "-d", "--name", "usr", "--stop-signal", "USR1", cli.image, "sh", "-c", script)
    cli.wait_for_log("usr", "ready")
    cli("stop", "usr")
    assert "Exited (6)" in cli("ps", "-a")


def test_logs_follow_to_the_end_and_miss_nothing(cli: Cli) -> None:
    count = 3000
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); done; printf unfinished; exit 1"
    cli.run_detached("sh", "-c", script, name="talker")
    expected = "".join(f"line {number}\n" for number in range(count)) + "unfinished"
    assert cli("logs", "-f", "talker").rstrip("\n") == expected
    assert cli("logs", "--tail", "2", "talker").rstrip("\n") == f"line {count - 1}\nunfinished"
    assert cli("logs", "--since", "1h", "--tail", "1", "talker").rstrip("\n") == "unfinished"
    assert cli("logs", "--since", "2100-01-01T00:00:00Z", "talker") == ""
    stamped = cli("logs", "-t", "--tail", "1", "talker")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S* unfinished", stamped)


def test_logs_are_split_as_they_were_written(cli: Cli) -> None:
    cli.run_detached("sh", "-c", "echo out; echo error >&2", name="two")
    cli("wait", "two")
    done = cli.call("logs", "-f", "two")
    assert (done.stdout, done.stderr) == ("out\n", "error\n")


def test_following_ends_when_the_container_is_removed(cli: Cli) -> None:
    cli.run_detached("sh", "-c", "echo ready; sleep 100", name="gone")
    with cli.popen("logs", "-f", "gone") as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "ready\n"
        cli("rm", "-f", "gone")
        assert following.wait(timeout=20) == 0


def test_containers_outlive_the_daemon_and_are_found_again(cli: Cli) -> None:
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
    cli.run_detached("sh", "-c", script, name="survivor")
    cli.wait_for_log("survivor", "3\n")
    cli.daemon.kill()
    time.sleep(1)
    cli.daemon.start()
    assert cli("ps", "--format", "{{.Names}}") == "survivor\n"
    assert cli("exec", "survivor", "echo", "alive") == "alive\n"
    cli("kill", "survivor")
    assert cli("wait", "survivor") == "137\n"
    numbers = [int(line) for line in cli("logs", "survivor").split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20


def test_a_command_that_is_interrupted_removes_its_container(cli: Cli) -> None:
    with cli.popen("run", "--rm", "--no-sig-proxy", cli.image, "sh", "-c", "echo ready; sleep 100") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 130
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()
    assert cli("ps", "-aq") == ""


def test_a_container_that_ends_without_a_client_is_removed_where_it_was_to_be(cli: Cli) -> None:
    cli("run", "-d", "--rm", "--name", "brief", cli.image, "sleep", "0.1")
    wait_until(lambda: cli("ps", "-aq") == "", "the daemon removes it")
    cli("run", "-d", "--rm", "--name", "brief", cli.image, "true")
    wait_until(lambda: cli("ps", "-aq") == "", "the daemon removes it")


def test_a_reader_that_leaves_ends_the_command_quietly(cli: Cli) -> None:
    done = subprocess.run(
        f"moorage run --rm {cli.image} yes | head -n 2",
        shell=True,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("y\ny\n", "")
    wait_until(lambda: cli("ps", "-aq") == "", "the container is removed")


def test_a_command_in_the_foreground_outlives_a_restart_of_the_daemon(cli: Cli) -> None:
    script = "echo ready; read line; echo got $line; exit 6"
    with subprocess.Popen(
        [BIN / "moorage", "run", "-i", "--rm", cli.image, "sh", "-c", script],
        env=cli.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        wait_until(lambda: "Up" in cli("ps"), "the daemon knows that it runs")
        cli.daemon.kill()
        running.stdin.write("this\n")
        running.stdin.flush()
        assert running.stdout.readline() == "got this\n"
        cli.daemon.start()
        assert running.wait(timeout=30) == 6
    assert cli("ps", "-aq") == ""
