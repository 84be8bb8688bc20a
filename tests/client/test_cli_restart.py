"""What the daemon does for containers while no client is there: restart policies, and the ends of detached ones."""

from __future__ import annotations

import json
import os
import signal
import time

from support.terminal import wait_until

from .conftest import Cli


def count(cli: Cli, name: str) -> int:
    return int(json.loads(cli("inspect", name))[0]["RestartCount"])


def test_on_failure_is_tried_so_often_and_no_more(cli: Cli) -> None:
    cli("run", "-d", "--restart", "on-failure:2", "--name", "failing", cli.image, "sh", "-c", "echo again; exit 3")
    wait_until(lambda: cli("logs", "failing").count("again") == 3, "three runs")
    wait_until(lambda: "Exited (3)" in cli("ps", "-a"), "the last has ended")
    assert count(cli, "failing") == 2
    policy = json.loads(cli("inspect", "failing"))[0]["HostConfig"]["RestartPolicy"]
    assert policy == {"Name": "on-failure", "MaximumRetryCount": 2}


def test_a_killed_container_comes_back_until_it_is_stopped(cli: Cli) -> None:
    cli("run", "-d", "--restart", "always", "--name", "lasting", cli.image, "sh", "-c", "echo run; exec sleep 100")
    cli.wait_for_log("lasting", "run")
    # Not by the command line, whose kill means that it is to stay down.
    os.kill(json.loads(cli("inspect", "lasting"))[0]["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: cli("logs", "lasting") == "run\nrun\n", "it runs again")
    wait_until(lambda: "Up" in cli("ps"), "it is known to run")
    cli("stop", "-t", "0.1", "lasting")
    assert "Exited" in cli("ps", "-a")
    cli("start", "lasting")
    cli("rm", "-f", "lasting")
    assert cli("ps", "-aq") == ""


def test_a_policy_is_kept_over_restarts_of_the_daemon(cli: Cli) -> None:
    cli(
        "run", "-d", "--restart", "unless-stopped", "--name", "up", cli.image, "sh", "-c", "echo run; sleep 1.5; exit 1"
    )
    cli("run", "-d", "--restart", "unless-stopped", "--name", "down", cli.image, "sleep", "100")
    cli("stop", "-t", "0", "down")
    cli.wait_for_log("up", "run")
    cli.daemon.kill()
    time.sleep(2)
    cli.daemon.start()
    wait_until(lambda: cli("logs", "up").count("run") >= 2, "what ended without a daemon is started again")
    assert cli("ps", "-a", "--filter", "name=down", "--format", "{{.State}}") == "exited\n"


def test_the_end_of_a_detached_container_is_written_down_and_its_shim_gone(cli: Cli) -> None:
    id = cli.run_detached("sh", "-c", "exit 7")
    wait_until(lambda: "Exited (7)" in cli("ps", "-a"), "it ends")
    assert cli("wait", id) == "7\n"
    wait_until(
        lambda: not cli.daemon.run("ctr", "-n", cli.namespace, "tasks", "ls", "-q").split(), "its task is deleted"
    )
    assert cli("start", id) == f"{id}\n"
    assert cli("wait", id) == "7\n"


def test_rm_and_restart_do_not_go_together(cli: Cli) -> None:
    done = cli.call("run", "--rm", "--restart", "always", cli.image, "true")
    assert (done.returncode, "cannot be restarted" in done.stderr) == (125, True)
    assert "invalid restart policy" in cli.call("create", "--restart", "sometimes", cli.image, "true").stderr
