"""Health checks: run by the daemon, shown by `ps` and `inspect`."""

from __future__ import annotations

import json
from typing import Any

from support.images import ImageSpec, push
from support.registry import Registry
from support.terminal import wait_until

from .conftest import Cli


def status(cli: Cli, name: str) -> str:
    return cli("ps", "--filter", f"name={name}", "--format", "{{.Status}}").strip()


def report(cli: Cli, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("inspect", name))[0]["State"]["Health"]
    return found


def test_a_container_becomes_healthy_and_unhealthy_and_healthy_again(cli: Cli) -> None:
    check = ("--health-cmd", "echo looked; test -e /well", "--health-interval", "100ms", "--health-retries", "2")
    cli("run", "-d", "--name", "patient", *check, cli.image, "sleep", "1000")
    wait_until(lambda: status(cli, "patient").endswith("(unhealthy)"), "two failures")
    found = report(cli, "patient")
    assert found["FailingStreak"] >= 2
    assert (found["Log"][-1]["ExitCode"], found["Log"][-1]["Output"]) == (1, "looked\n")
    cli("exec", "patient", "touch", "/well")
    wait_until(lambda: status(cli, "patient").endswith("(healthy)"), "it recovers")
    assert cli("ps", "-q", "--filter", "health=healthy") == cli("ps", "-q")
    assert (report(cli, "patient")["FailingStreak"], len(report(cli, "patient")["Log"]) <= 5) == (0, True)
    cli("exec", "patient", "rm", "/well")
    wait_until(lambda: status(cli, "patient").endswith("(unhealthy)"), "it fails again")
    cli("restart", "-t", "0", "patient")
    wait_until(lambda: report(cli, "patient")["FailingStreak"] >= 2, "the checks go on after a restart")


def test_a_check_that_takes_too_long_is_killed(cli: Cli) -> None:
    check = ("--health-cmd", "sleep 1000", "--health-interval", "100ms", "--health-timeout", "200ms")
    cli("run", "-d", "--name", "slow", *check, "--health-retries", "1", cli.image, "sleep", "1001")
    wait_until(lambda: status(cli, "slow").endswith("(unhealthy)"), "it is not waited for")
    assert report(cli, "slow")["Log"][0]["ExitCode"] == -1
    assert "exceeded timeout" in report(cli, "slow")["Log"][0]["Output"]
    wait_until(lambda: "sleep 1000" not in cli("top", "slow"), "nothing of the check is left")


def test_failures_in_the_start_period_do_not_count(cli: Cli) -> None:
    check = ("--health-cmd", "false", "--health-start-interval", "100ms", "--health-start-period", "1h")
    cli("run", "-d", "--name", "young", *check, "--health-retries", "1", cli.image, "sleep", "1000")
    wait_until(lambda: len(report(cli, "young")["Log"]) == 5, "several failures")
    assert status(cli, "young").endswith("(health: starting)")


def test_checks_go_on_after_a_restart_of_the_daemon(cli: Cli) -> None:
    cli("run", "-d", "--name", "firm", "--health-cmd", "true", "--health-interval", "100ms", cli.image, "sleep", "1000")
    wait_until(lambda: status(cli, "firm").endswith("(healthy)"), "it is well")
    cli.daemon.kill()
    cli.daemon.start()
    assert status(cli, "firm").endswith("(healthy)")
    last = report(cli, "firm")["Log"][-1]["Start"]
    wait_until(lambda: report(cli, "firm")["Log"][0]["Start"] > last, "more checks")


def test_the_check_of_an_image_is_kept_changed_or_left_out(cli: Cli, registry: Registry) -> None:
    name = f"{registry.address}/checked:1"
    check = {"Test": ["CMD", "true"], "Interval": 100_000_000, "Retries": 7}
    push(registry.address, "checked", "1", ImageSpec(config={"Cmd": ["sleep", "1000"], "Healthcheck": check}))
    cli("pull", "-q", name)
    cli("run", "-d", "--name", "own", name)
    wait_until(lambda: status(cli, "own").endswith("(healthy)"), "the image's check runs")
    cli("create", "--name", "changed", "--health-cmd", "false", name)
    asked = json.loads(cli("inspect", "changed"))[0]["Config"]["Healthcheck"]
    assert asked == {**check, "Test": ["CMD-SHELL", "false"]}
    cli("run", "-d", "--name", "none", "--no-healthcheck", name)
    assert "Health" not in json.loads(cli("inspect", "none"))[0]["State"]
    refused = cli.call("create", "--no-healthcheck", "--health-cmd", "true", name)
    assert (refused.returncode, "conflicts" in refused.stderr) == (125, True)
    assert cli.call("create", "--health-cmd", "true", "--health-interval", "often", name).returncode == 125
