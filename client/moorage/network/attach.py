"""A container's network, as its record and its specification have it."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace

from moorage.network import files
from moorage.network.definitions import BUILT_IN, DEFAULT, Networks, Place
from moorage.network.plan import ERROR, HOSTS, RESOLV_CONF, Attached, Plan, Records, write, write_hosts
from moorage.options import ContainerOptions
from moorage_api.errors import FailedPrecondition
from moorage_api.oci import spec as oci

_RESOLV_CONF = "/etc/resolv.conf"
_HOOK_SECONDS = 120
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def prepare(
    spec: oci.Spec, options: ContainerOptions, place: Place | None, namespace: str, id: str, name: str, folder: str
) -> None:
    """Make a new container's files in `folder` (its own), and let its specification name them and the hooks.

    Blocks. `NotFound` for a network that is not there; `FailedPrecondition` where the daemon keeps no networks.
    """
    if options.network == "host":
        return
    if place is None or not folder:
        if options.network != "none":
            raise FailedPrecondition(
                f"this daemon keeps no networks: {options.network!r} cannot be had, only none or host"
            )
        return
    networks = Networks(place, namespace)
    joined = options.network not in BUILT_IN or options.network == DEFAULT
    network = networks.get(options.network) if joined else None
    plan = Plan(
        id=id,
        namespace=namespace,
        names=tuple(dict.fromkeys((spec["hostname"], name, id[:12]))),
        network=network.name if network else options.network,
        folder=folder,
        state=place.state,
        bin_dirs=place.bin_dirs,
        config=networks.config(network).document() if network else {},
        ports=tuple(options.publish),
        extra_hosts=tuple(_with_gateway(entry, network.gateway if network else "") for entry in options.extra_hosts),
    )
    _write(plan, options)
    for path, file in (("/etc/hosts", HOSTS), (_RESOLV_CONF, RESOLV_CONF)):
        oci.add_mount(spec, path, os.path.join(folder, file), options=("bind", "rprivate", "rw"))
    if network is not None:
        spec["hooks"] = {"createRuntime": [_hook("add", folder)], "poststop": [_hook("delete", folder)]}


def _with_gateway(entry: str, gateway: str) -> str:
    """docker's word for the host, as containers reach it."""
    name, _, where = entry.partition(":")
    return f"{name}:{gateway}" if where == "host-gateway" and gateway else entry


def _write(plan: Plan, options: ContainerOptions) -> None:
    os.makedirs(plan.folder, mode=0o700, exist_ok=True)
    plan.save()
    write_hosts(plan)
    text = ""
    with contextlib.suppress(OSError), open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file:
        text = file.read()
    write(os.path.join(plan.folder, RESOLV_CONF), files.resolv_conf(text, options.dns))


def _hook(command: str, folder: str) -> dict[str, object]:
    arguments = [sys.executable, "-I", "-m", "moorage.network.hook", command, folder]
    return {"path": sys.executable, "args": arguments, "env": [_PATH], "timeout": _HOOK_SECONDS}


def failure(folder: str) -> str:
    """Why a container's network could not be made at its last start; empty where that was not it. Told once."""
    path = os.path.join(folder, ERROR)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        os.unlink(path)
    except OSError:
        return ""
    return text


def attached(place: Place | None, namespace: str, id: str) -> Attached | None:
    """What a container has of its network now."""
    return Records(place.state).get(namespace, id) if place is not None else None


def rename(folder: str, old: str, new: str) -> None:
    """Let a container be found by its new name. Blocks; one without a network has nothing to change."""
    try:
        plan = Plan.load(folder)
    except (OSError, ValueError, TypeError, KeyError):
        return
    changed = replace(plan, names=tuple(new if name == old else name for name in plan.names))
    records = Records(plan.state)
    with records.locked():
        changed.save()
        current = records.get(plan.namespace, plan.id)
        if current is not None:
            records.put(replace(current, plan=changed))
            records.tell(plan.namespace, plan.network)
