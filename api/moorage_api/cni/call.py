"""What one call of a CNI plugin is told and what it answers (CNI specification, section 2: the execution protocol). No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moorage_api.errors import Unavailable

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a call is about: which container, in which network namespace, under which interface name.

    `args` becomes CNI_ARGS; `capabilities` are runtime arguments by capability name.
    """

    id: str
    netns: str
    interface: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)


def environment(command: str, attachment: Attachment, folders: Sequence[str]) -> dict[str, str]:
    """The variables of a call; `folders` are where plugins look for the plugins that they delegate to."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.id,
        "CNI_NETNS": attachment.netns,
        "CNI_IFNAME": attachment.interface,
        "CNI_ARGS": ";".join(f"{name}={value}" for name, value in attachment.args.items()),
        "CNI_PATH": ":".join(folders),
    }


def request(
    version: str,
    network: str,
    plugin: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    previous: Result | None,
) -> dict[str, Any]:
    """What a plugin reads: its configuration with the network's name and version, those runtime arguments whose
    capability it declares, and the result of the plugin before it."""
    config = {key: value for key, value in plugin.items() if key != "capabilities"}
    config |= {"name": network, "cniVersion": version}
    declared = plugin.get("capabilities") or {}
    runtime = {name: value for name, value in capabilities.items() if declared.get(name) and value}
    if runtime:
        config["runtimeConfig"] = runtime
    if previous is not None:
        config["prevResult"] = previous
    return config


def parse_result(stdout: bytes, kind: str) -> Result:
    """What a plugin printed, empty where it printed nothing. `Unavailable` for what is no result, naming the plugin's kind."""
    if not stdout.strip():
        return {}
    try:
        result = json.loads(stdout)
    except ValueError as error:
        raise Unavailable(f"CNI plugin {kind} printed a result that is not JSON: {error}") from error
    if not isinstance(result, dict):
        raise Unavailable(f"CNI plugin {kind} printed a result that is not a JSON object")
    return result
