"""The way out of a network: one rule of the host's NAT table for each, not one for each container.

The bridge plugin's own rules (`ipMasq`) can be taken down only while the container's network namespace exists, which it
does not when a container has ended.
"""

from __future__ import annotations

import subprocess
from typing import Any

from moorage_api.errors import Unavailable

_SECONDS = "5"


def ensure(bridge: str, subnet: str) -> None:
    """Let what leaves the network have the host's address. `Unavailable` where iptables cannot do it."""
    if _iptables("-C", bridge, subnet).returncode == 0:
        return
    added = _iptables("-A", bridge, subnet)
    if added.returncode:
        raise Unavailable(f"iptables cannot masquerade {subnet}: {added.stderr.strip()}")


def remove(bridge: str, subnet: str) -> None:
    """Forget the rule; one that is not there does not matter."""
    _iptables("-D", bridge, subnet)


def of_config(config: dict[str, Any]) -> tuple[str, str] | None:
    """The bridge and the subnet of a network that has a way out; None for an internal one."""
    bridge = config["plugins"][0]
    if not bridge.get("isGateway"):
        return None
    return bridge["bridge"], bridge["ipam"]["ranges"][0][0]["subnet"]


def _iptables(action: str, bridge: str, subnet: str) -> subprocess.CompletedProcess[str]:
    rule = ["-s", subnet, "!", "-d", subnet, "-m", "comment", "--comment", f'name: "{bridge}"', "-j", "MASQUERADE"]
    command = ["iptables", "-w", _SECONDS, "-t", "nat", action, "POSTROUTING", *rule]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"cannot run iptables: {error.strerror}") from error
