"""A network of one's own: a bridge, a subnet, and CNI configuration for Debian's plugins, all under one folder."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SUBNETS = 1 << 11
_taken: set[int] = set()
# Chains of the portmap plugin that every network shares.
_SHARED_CHAINS = {"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"}


@dataclass(frozen=True)
class Network:
    """What `write_bridge` made; the bridge itself appears with the first pod."""

    conf_dir: Path
    bridge: str
    number: int
    subnet: str
    pool: str

    def remove(self) -> None:
        """Delete the bridge, and the rules that plugins made for pods that nobody took down; harmless without any."""
        _taken.discard(self.number)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        remove_rules(self.bridge)


def remove_rules(network: str) -> None:
    """Delete the NAT rules that name `network` in their comment, and the chains that only they lead to."""
    saved = subprocess.run(["iptables-save", "-t", "nat"], check=True, capture_output=True, text=True).stdout
    rules = [line for line in saved.splitlines() if line.startswith("-A") and f'name: \\"{network}\\"' in line]
    # A plugin that was killed may have left a chain to which nothing leads.
    names = {word for rule in rules for word in (rule.split()[1], rule.split()[-1])}
    chains = {name for name in names if name.startswith("CNI-")} - _SHARED_CHAINS
    if not rules:
        return
    batch = ["*nat", *(f"-D{rule[2:]}" for rule in rules if rule.split()[1] not in chains)]
    batch += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains] + ["COMMIT", ""]
    subprocess.run(["iptables-restore", "--noflush", "--wait"], input="\n".join(batch), text=True, check=True)


def write_bridge(folder: Path, id: str) -> Network:
    """Write a conflist of bridge and portmap; `id` (hex) makes the bridge's name unique, and gives it a /24 of 10.200.0.0/13
    that no other of this process has, and a /24 of 10.208.0.0/13 for the networks of the command line."""
    number = int(id, 16) % _SUBNETS
    while number in _taken:
        number = (number + 1) % _SUBNETS
    _taken.add(number)
    subnet = f"10.{200 + number // 256}.{number % 256}.0/24"
    pool = f"10.{208 + number // 256}.{number % 256}.0/24"
    network = Network(folder / "conf", f"mr-{id}", number, subnet, pool)
    network.conf_dir.mkdir(parents=True)
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(folder / "ipam"),
    }
    bridge = {"type": "bridge", "bridge": network.bridge, "isGateway": True, "ipMasq": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    conflist = {"cniVersion": "1.0.0", "name": network.bridge, "plugins": [bridge, portmap]}
    (network.conf_dir / "10-bridge.conflist").write_text(json.dumps(conflist))
    return network
