"""The network of pods in trouble: plugins that fail and hang at every place of a chain, and a configuration that changes."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import DeadlineExceeded, MoorageError, NotFound, Unavailable
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config, until
from support.daemon import CNI_BIN, Daemon

# A plugin that does as the files beside it say, and else passes on what came before it.
TROUBLE = """#!/bin/sh
cd $(dirname $0)
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID" >> calls
[ -e hang-$CNI_COMMAND ] && sleep 1000
[ -e fail-$CNI_COMMAND ] && { echo '{"code": 11, "msg": "trouble"}'; exit 1; }
[ $CNI_COMMAND = ADD ] && python3 -c 'import json, sys; print(json.dumps(json.loads(sys.argv[1]).get("prevResult", {})))' "$input"
exit 0
"""


class Net:
    """A daemon whose chain of plugins is the test's."""

    def __init__(self, daemon: Daemon, cri: CriClient, folder: Path, image: str) -> None:
        self.daemon, self.cri, self.folder, self.image = daemon, cri, folder, image
        self.file = daemon.network.conf_dir / "10-bridge.conflist"
        self.plain: dict[str, Any] = json.loads(self.file.read_text())

    def chain(self, *plugins: dict[str, Any]) -> None:
        """Make this the network."""
        scratch = self.file.with_suffix(".new")
        scratch.write_text(json.dumps({**self.plain, "plugins": plugins}))
        scratch.replace(self.file)

    def with_trouble(self, place: int) -> None:
        plugins = list(self.plain["plugins"])
        plugins.insert(place, {"type": "trouble"})
        self.chain(*plugins)

    def trouble(self, what: str = "") -> None:
        """Let the plugin do this from now on; without a word, let it do nothing."""
        for path in (*self.folder.glob("fail-*"), *self.folder.glob("hang-*")):
            path.unlink()
        if what:
            (self.folder / what).touch()

    def left(self) -> list[str]:
        """Addresses that are taken, networks that are recorded, namespaces that are pinned."""
        cri = "io.containerd.grpc.v1.cri"
        leases = self.daemon.folder / "cni/ipam" / self.daemon.network.bridge
        folders = [leases, self.daemon.root / cri / "cni", self.daemon.state / cri / "netns"]
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return [str(path) for path in found if not path.name.startswith(("lock", "last_reserved"))]


@pytest.fixture(scope="module")
def running(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "trouble").write_text(TROUBLE)
    (folder / "trouble").chmod(0o755)
    with Daemon() as daemon:
        text = daemon.config_file.read_text()
        both = f'bin_dirs = ["{folder}", "{CNI_BIN}"]\\ntimeout = 2.0'.replace("\\n", "\n")
        daemon.config_file.write_text(text.replace(f'bin_dirs = ["{CNI_BIN}"]', both, 1))
        daemon.restart()
        with CriClient(daemon.address) as cri:
            cri.pull(busybox)
            yield Net(daemon, cri, folder, busybox)


@pytest.fixture
def net(running: Net) -> Iterator[Net]:
    yield running
    running.trouble()
    running.chain(*running.plain["plugins"])
    running.cri.remove_all()
    until(lambda: running.left() == [])


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize(("what", "error"), [("fail-ADD", Unavailable), ("hang-ADD", DeadlineExceeded)])
def test_an_add_that_does_not_succeed_leaves_no_address(
    net: Net, place: int, what: str, error: type[MoorageError]
) -> None:
    net.with_trouble(place)
    net.trouble(what)
    config = pod_config(host_port=22080)
    with pytest.raises(error, match="trouble"):
        net.cri.run_pod(config)
    until(lambda: net.left() == [])
    assert list(net.cri.ListPodSandbox().items) == []
    net.trouble()
    pod = net.cri.run_pod(config)
    assert net.cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip


@pytest.mark.parametrize("what", ["fail-DEL", "hang-DEL"])
def test_a_del_that_does_not_succeed_is_repeated_until_it_does(net: Net, what: str) -> None:
    """Across a crash of the daemon, too, and with a configuration that no longer has the plugin."""
    net.with_trouble(1)
    pod = net.cri.run_pod(pod_config())
    (net.folder / "calls").unlink()
    net.trouble(what)
    net.cri.stop_pod(pod)
    net.cri.remove_pod(pod)
    until((net.folder / "calls").exists)
    assert any(pod in line for line in net.left())
    net.daemon.kill()
    net.chain(*net.plain["plugins"])
    net.daemon.start()
    assert list(net.cri.ListPodSandbox().items) == []
    net.trouble()
    until(lambda: net.left() == [])


def test_a_plugin_that_is_missing_is_named_before_anything_is_made(net: Net) -> None:
    net.chain(*net.plain["plugins"], {"type": "nowhere"})
    with pytest.raises(NotFound, match="CNI plugin nowhere is not in"):
        net.cri.run_pod(pod_config())
    assert net.left() == []


def test_a_changed_configuration_is_used_at_once_and_shown(net: Net) -> None:
    old = net.cri.run_pod(pod_config())
    net.file.write_text("{")
    conditions = {each.type: each for each in net.cri.Status().status.conditions}
    assert not conditions["NetworkReady"].status
    assert "is not JSON" in conditions["NetworkReady"].message
    with pytest.raises(Unavailable, match="is not JSON"):
        net.cri.run_pod(pod_config())
    net.chain({**net.plain["plugins"][0], "mtu": 1400})
    net.cri.wait_ready()
    config = pod_config()
    pod = net.cri.run_pod(config)
    container = net.cri.start(pod, config, container_config(net.image, "sleep", "1000"))
    assert net.cri.execute(container, "cat", "/sys/class/net/eth0/mtu").stdout == b"1400\n"
    # What was made with the old one is taken down with it.
    net.cri.remove_pod(old)


def test_both_families_of_addresses(net: Net) -> None:
    bridge = json.loads(json.dumps(net.plain["plugins"][0]))
    bridge["ipam"]["ranges"].append([{"subnet": "fd00:6d6f:6f72::/64"}])
    bridge["ipMasq"] = False
    net.chain(bridge)
    config = pod_config()
    pod = net.cri.run_pod(config)
    network = net.cri.PodSandboxStatus(pod_sandbox_id=pod).status.network
    addresses = [network.ip, *(each.ip for each in network.additional_ips)]
    assert [ipaddress.ip_address(each).version for each in addresses] == [4, 6]
    container = net.cri.start(pod, config, container_config(net.image, "sleep", "1000"))
    shown = net.cri.execute(container, "ip", "-o", "addr").stdout.decode()
    assert all(f" {address}/" in shown for address in (*addresses, "127.0.0.1", "::1"))


def test_addresses_run_out_and_come_back(net: Net) -> None:
    bridge = json.loads(json.dumps(net.plain["plugins"][0]))
    subnet = ipaddress.ip_network(bridge["ipam"]["ranges"][0][0]["subnet"])
    bridge["ipam"]["ranges"][0][0] |= {"rangeStart": str(subnet[100]), "rangeEnd": str(subnet[101])}
    net.chain(bridge)
    pods = [net.cri.run_pod(pod_config()) for _ in range(2)]
    with pytest.raises(Unavailable, match="no IP addresses available"):
        net.cri.run_pod(pod_config())
    net.cri.stop_pod(pods[0])
    config = pod_config()

    def again() -> bool:
        try:
            return bool(net.cri.run_pod(config))
        except Unavailable:
            return False

    until(again)


def test_the_ports_of_the_host_are_free_for_the_next_pod(net: Net) -> None:
    config = pod_config(ports=[cri_pb2.PortMapping(container_port=80, host_port=22081)])
    for _ in range(3):
        pod = net.cri.run_pod(config)
        net.cri.stop_pod(pod)
        net.cri.remove_pod(pod)
    pod = net.cri.run_pod(config)
    assert len([line for line in net.left() if f"{net.daemon.root}" in line]) == 1
