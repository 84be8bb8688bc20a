"""A container's links: each made by CNI's plugins in the container's network namespace, and taken down by them.

Callers hold `Records.locked()`.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from moorage.network import masquerade
from moorage.network.plan import Join, Link, Plan
from moorage_api.cni.call import Attachment, Result, environment, parse_result, request
from moorage_api.cni.config import NetworkConfig, of_document
from moorage_api.cni.result import addresses
from moorage_api.errors import MoorageError, NotFound, Unavailable

_SECONDS = 30


def make(plan: Plan, join: Join, netns: str) -> Link:
    """Put a container into a network. On an error nothing stays. `Unavailable`, `NotFound` for a plugin."""
    masked = masquerade.of_config(join.config)
    if masked is not None:
        masquerade.ensure(*masked)
    try:
        result = _call_all("ADD", plan, join, netns, {})
        return Link(join, result, addresses(result, join.interface, "ipv4")[0])
    except MoorageError:
        _call_all("DEL", plan, join, "", {})
        raise


def take_down(plan: Plan, link: Link, netns: str = "") -> None:
    """Give back what a container has of a network; with its network namespace, its interface there, too."""
    _call_all("DEL", plan, link.join, netns, link.result)


def way_out(plan: Plan) -> Join | None:
    """The network through which a container reaches the world: the first that leads out."""
    return next((join for join in plan.joins if masquerade.of_config(join.config) is not None), None)


def lead_out(join: Join, pid: int) -> None:
    """Let a running container reach the world through this network, from now on. `Unavailable`."""
    gateway = join.config["plugins"][0]["ipam"]["ranges"][0][0]["gateway"]
    command = ["nsenter", "--target", str(pid), "--net", "ip", "route", "replace", "default", "via", gateway]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise Unavailable(f"the default route cannot be set: {done.stderr.strip()}")


def _config(plan: Plan, join: Join) -> NetworkConfig:
    """What CNI is told: a default route for the one network that leads out, none for the others."""
    document = join.config
    if way_out(plan) != join:
        bridge, *others = document["plugins"]
        ipam = {key: value for key, value in bridge["ipam"].items() if key != "routes"}
        document = {**document, "plugins": [{**bridge, "ipam": ipam}, *others]}
    return of_document(document, join.network)


def _call_all(command: str, plan: Plan, join: Join, netns: str, previous: Result) -> Result:
    """Run the plugins of a network, for DEL in reverse. DEL goes on after an error and raises the first at its end."""
    config = _config(plan, join)
    asked = {"IP": join.address} if join.address else {}
    attachment = Attachment(plan.id, netns, join.interface, args={"IgnoreUnknown": "1", **asked})
    ports = plan.ports if join.network == plan.joins[0].network else ()
    capabilities: dict[str, Any] = {"portMappings": [port.mapping() for port in ports]}
    failures: list[MoorageError] = []
    result = previous
    for plugin in config.plugins if command == "ADD" else reversed(config.plugins):
        given = request(config.version, config.name, plugin, capabilities, result or None)
        try:
            answer = _call(command, attachment, plan.bin_dirs, given)
        except MoorageError as error:
            if command == "ADD":
                raise
            failures.append(error)
            continue
        if command == "ADD":
            result = answer
    if failures:
        raise failures[0]
    return result


def _call(command: str, attachment: Attachment, folders: tuple[str, ...], config: dict[str, Any]) -> Result:
    kind = config["type"]
    paths = [os.path.join(folder, kind) for folder in folders]
    path = next((path for path in paths if os.access(path, os.X_OK)), None)
    if path is None:
        raise NotFound(f"CNI plugin {kind} is not in {', '.join(folders)}")
    variables = {**os.environ, **environment(command, attachment, folders)}
    done = subprocess.run(
        [path], env=variables, input=json.dumps(config).encode(), capture_output=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise Unavailable(
            f"CNI plugin {kind} failed ({command}): {_reason(done.stdout) or done.stderr.decode()[-500:]}"
        )
    return parse_result(done.stdout, kind)


def _reason(stdout: bytes) -> str:
    try:
        error = json.loads(stdout)
        return "; ".join(str(error[key]) for key in ("msg", "details") if error.get(key))
    except (ValueError, AttributeError):
        return ""
