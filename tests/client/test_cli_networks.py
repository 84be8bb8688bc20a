"""Networks and published ports: the real CNI plugins on a real daemon."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request

import pytest

from support.terminal import wait_until

from .conftest import Cli

_SERVER = "echo hello > /tmp/index.html; exec httpd -f -h /tmp"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
        return str(response.read().decode())


def rules_of(bridge: str) -> list[str]:
    saved = subprocess.run(["iptables-save", "-t", "nat"], check=True, capture_output=True, text=True).stdout
    return [line for line in saved.splitlines() if f'"{bridge}' in line.replace("\\", "")]


def answers(port: int) -> bool:
    try:
        return fetch(port) == "hello\n"
    except OSError:
        return False


def test_a_published_port_leads_in_until_the_container_is_stopped(cli: Cli) -> None:
    port = free_port()
    ask = ("run", "-d", "--network", "bridge", "-p", f"{port}:80")
    cli(*ask, "--name", "web", cli.image, "sh", "-c", _SERVER)
    wait_until(lambda: answers(port), "the server answers")
    assert cli("ps", "--format", "{{.Ports}}") == f"0.0.0.0:{port}->80/tcp\n"
    settings = json.loads(cli("inspect", "web"))[0]["NetworkSettings"]
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}]}
    assert settings["IPAddress"].startswith("10.")
    second = cli.call(*ask, "--name", "second", cli.image, "true")
    assert (second.returncode, "already allocated" in second.stderr) == (125, True)
    cli("stop", "-t", "0.1", "web")
    assert cli("start", "second") == "second\n"
    assert not answers(port)


def test_containers_of_a_network_find_one_another_by_name(cli: Cli) -> None:
    id = cli("network", "create", "sea").strip()
    cli("run", "-d", "--network", "sea", "--name", "server", cli.image, "sh", "-c", _SERVER)
    script = "until wget -qO- http://server/; do sleep 0.05; done; cat /etc/hosts"
    asked = cli("run", "--rm", "--network", "sea", "--add-host", "far:192.0.2.9", cli.image, "sh", "-c", script)
    assert asked.startswith("hello\n")
    assert "192.0.2.9\tfar" in asked
    assert "client" not in cli("exec", "server", "cat", "/etc/hosts")
    other = cli(
        "run", "--rm", "--network", "bridge", "--dns", "192.0.2.53", cli.image, "cat", "/etc/hosts", "/etc/resolv.conf"
    )
    assert "\tserver" not in other.replace(" ", "\t")
    assert "nameserver 192.0.2.53\n" in other
    shown = json.loads(cli("network", "inspect", id[:12]))[0]
    assert [entry["Name"] for entry in shown["Containers"].values()] == ["server"]
    used = cli.call("network", "rm", "sea")
    assert (used.returncode, "is used by" in used.stderr) == (1, True)
    cli("rm", "-f", "server")
    bridge = shown["Options"]["bridge"]
    assert [line.split()[3] for line in rules_of(bridge)] == [shown["IPAM"]["Config"][0]["Subnet"]]
    assert cli("network", "rm", "sea") == "sea\n"
    assert rules_of(bridge) == []
    assert cli("network", "ls", "--format", "{{.Name}}").split() == ["bridge", "host", "none"]
    assert len(set(cli("network", "ls", "-q").split())) == 3


def way_out(cli: Cli) -> str:
    """The interface of the default route of the container `server`."""
    routes = cli("exec", "server", "ip", "route").splitlines()
    (default,) = (route for route in routes if route.startswith("default "))
    return default.split()[4]


def test_a_running_container_is_put_into_networks_and_taken_out_of_them(cli: Cli) -> None:
    for name in ("sea", "lake"):
        cli("network", "create", name)
    cli("run", "-d", "--network", "sea", "--name", "server", cli.image, "sh", "-c", _SERVER)
    cli("run", "-d", "--network", "lake", "--network-alias", "asker", "--name", "client", cli.image, "sleep", "1000")
    ask = ("exec", "client", "wget", "-qO-")
    assert cli.call(*ask, "http://server/").returncode != 0
    cli("network", "connect", "--alias", "web", "lake", "server")
    for name in ("server", "web"):
        wait_until(lambda name=name: cli.call(*ask, f"http://{name}/").stdout == "hello\n", "it is found")  # type: ignore[misc]
    assert "asker" in cli("exec", "server", "cat", "/etc/hosts")
    assert way_out(cli) == "eth0"
    assert cli("exec", "server", "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]
    networks = json.loads(cli("inspect", "server"))[0]["NetworkSettings"]["Networks"]
    assert (set(networks), networks["lake"]["Aliases"]) == ({"sea", "lake"}, ["web"])
    assert cli.call("network", "connect", "lake", "server").returncode == 1
    assert cli.call("network", "rm", "lake").returncode == 1
    # It is in both after a restart, too.
    cli("restart", "-t", "0", "server")
    wait_until(lambda: cli.call(*ask, "http://web/").stdout == "hello\n", "it is found again")
    assert way_out(cli) == "eth0"
    cli("network", "disconnect", "lake", "server")
    assert "server" not in cli("exec", "client", "cat", "/etc/hosts")
    assert "asker" not in cli("exec", "server", "cat", "/etc/hosts")
    assert cli("exec", "server", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert cli.call("network", "disconnect", "lake", "server").returncode == 1
    cli("network", "connect", "lake", "server")
    cli("network", "disconnect", "sea", "server")
    assert way_out(cli) == "eth1"
    cli("rm", "-f", "server", "client")
    assert sorted(cli("network", "prune", "-f").split()) == ["lake", "sea"]


def test_what_was_made_without_networks_is_put_into_none(cli: Cli) -> None:
    cli("create", "--network", "none", "--name", "alone", cli.image, "true")
    done = cli.call("network", "connect", "bridge", "alone")
    assert (done.returncode, "made without networks" in done.stderr) == (1, True)


def test_an_address_can_be_asked_for(cli: Cli) -> None:
    cli("network", "create", "--subnet", "10.223.254.0/28", "small")
    show = ("run", "--rm", "--network", "small", "--ip")
    assert "10.223.254.9/28" in cli(*show, "10.223.254.9", cli.image, "ip", "address", "show", "eth0")
    assert "is not in the subnet" in cli.call(*show, "10.9.9.9", cli.image, "true").stderr
    cli("network", "rm", "small")


def test_a_container_joins_the_network_of_another_at_each_start(cli: Cli) -> None:
    cli("run", "-d", "--network", "bridge", "--name", "server", cli.image, "sh", "-c", _SERVER)
    cli("create", "--network", "container:server", "--name", "side", cli.image, "wget", "-qO-", "http://localhost/")
    wait_until(lambda: cli.call("start", "-a", "side").stdout == "hello\n", "the server answers")
    same = cli("run", "--rm", "--network", "container:server", cli.image, "cat", "/etc/hosts")
    assert same == cli("exec", "server", "cat", "/etc/hosts")
    cli("restart", "-t", "0", "server")
    wait_until(lambda: cli.call("start", "-a", "side").stdout == "hello\n", "the new server answers")
    cli("stop", "-t", "0", "server")
    done = cli.call("start", "side")
    assert (done.returncode, "does not run" in done.stderr) == (1, True)
    wrong = ("-p", "80:80"), ("--network-alias", "x")
    codes = [cli.call("create", "--network", "container:server", *words, cli.image).returncode for words in wrong]
    assert codes == [125, 125]
    assert cli.call("create", "--network", "container:nobody", cli.image).returncode == 125


def test_networks_are_defined_and_refused(cli: Cli) -> None:
    assert cli("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines() == [
        "bridge bridge",
        "host host",
        "none null",
    ]
    cli("network", "create", "--subnet", "10.223.255.0/28", "--internal", "--label", "a=b", "inner")
    shown = json.loads(cli("network", "inspect", "inner"))[0]
    assert (shown["Internal"], shown["Labels"], shown["IPAM"]["Config"]) == (
        True,
        {"a": "b"},
        [{"Subnet": "10.223.255.0/28", "Gateway": "10.223.255.1"}],
    )
    assert "overlaps" in cli.call("network", "create", "--subnet", "10.223.255.0/29", "again").stderr
    assert "exists already" in cli.call("network", "create", "inner").stderr
    assert "cannot be removed" in cli.call("network", "rm", "bridge").stderr
    assert cli("network", "prune", "-f") == "inner\n"
    assert cli.call("network", "inspect", "inner").returncode == 1


def test_an_ended_containers_address_is_free_again(cli: Cli) -> None:
    port = free_port()
    for _ in range(3):
        cli("run", "-d", "--network", "bridge", "-p", f"{port}:80", cli.image, "true")
        wait_until(lambda: "Up" not in cli("ps", "-a"), "it ends")
        wait_until(
            lambda: all(
                not json.loads(cli("inspect", id))[0]["NetworkSettings"]["Ports"] for id in cli("ps", "-aq").split()
            ),
            "its port is free",
        )


@pytest.mark.parametrize("words", [["-p", "x:80"], ["-p", "70000:80"], ["-p", "1-3:1-2"], ["--add-host", "alone"]])
def test_what_is_no_port_is_refused(cli: Cli, words: list[str]) -> None:
    done = cli.call("create", "--network", "bridge", *words, cli.image, "true")
    assert (done.returncode, done.stderr.startswith("moorage: invalid")) == (125, True)
