"""A network of one's own: a bridge, a subnet, and CNI configuration for Debian's plugins, all under one folder."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Network:
    """What `write_bridge` made; the bridge itself appears with the first pod."""

    conf_dir: Path
    bridge: str
    subnet: str

    def remove(self) -> None:
        """Delete the bridge and the masquerading that its plugin left for it; harmless where there is none."""
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)


def write_bridge(folder: Path, id: str) -> Network:
    """Write a conflist of bridge and portmap; `id` (hex) makes the bridge's name and its /24 in 10.200.0.0/13 unique."""
    number = int(id[:5], 16) % (1 << 11)
    subnet = f"10.{200 + number // 256}.{number % 256}.0/24"
    network = Network(folder / "conf", f"mr-{id}", subnet)
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
