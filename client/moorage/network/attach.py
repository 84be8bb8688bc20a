"""A container's network, as its record and its specification have it."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace

from moorage.network import files
from moorage.network.definitions import Network, Networks, Place, check_address
from moorage.network.plan import ERROR, HOSTS, RESOLV_CONF, Attached, Join, Plan, Records, write, write_hosts
from moorage.options import ContainerOptions
from moorage_api import native
from moorage_api.containers import Container
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
    if options.network == "host" or options.network.startswith(native.CONTAINER):
        return
    if place is None or not folder:
        if options.network != "none":
            raise FailedPrecondition(
                f"this daemon keeps no networks: {options.network!r} cannot be had, only none or host"
            )
        return
    networks = Networks(place, namespace)
    network = networks.get(options.network) if options.network != "none" else None
    joins = []
    if network is not None:
        joins.append(join_of(networks, network, "eth0", tuple(options.network_aliases), options.address))
    gateway = network.gateway if network else ""
    plan = Plan(
        id=id,
        namespace=namespace,
        name=name,
        names=tuple(dict.fromkeys((spec.get("hostname") or os.uname().nodename, name, id[:12]))),
        folder=folder,
        state=place.state,
        bin_dirs=place.bin_dirs,
        joins=tuple(joins),
        ports=tuple(options.publish),
        extra_hosts=tuple(_with_gateway(entry, gateway) for entry in options.extra_hosts),
    )
    _write(plan, options)
    _mount_files(spec, folder)
    if network is not None:
        spec["hooks"] = {"createRuntime": [_hook("add", folder)], "poststop": [_hook("delete", folder)]}


def join_of(networks: Networks, network: Network, interface: str, aliases: tuple[str, ...], address: str) -> Join:
    """How a container is to be in a network. `InvalidArgument` for an address that it does not have."""
    check_address(network, address)
    return Join(network.name, interface, networks.config(network).document(), aliases, address)


def share(spec: oci.Spec, folder: str) -> None:
    """Let a container that joins another's network have its files, which are in its `folder`; one that has none (it has
    the host's network, say) leaves the image's own."""
    if os.path.exists(os.path.join(folder, HOSTS)):
        _mount_files(spec, folder)


def _mount_files(spec: oci.Spec, folder: str) -> None:
    for path, file in (("/etc/hosts", HOSTS), (_RESOLV_CONF, RESOLV_CONF)):
        oci.add_mount(spec, path, os.path.join(folder, file), options=("bind", "rprivate", "rw"))


def _with_gateway(entry: str, gateway: str) -> str:
    """docker's word for the host, as containers reach it."""
    name, _, where = entry.partition(":")
    return f"{name}:{gateway}" if where == "host-gateway" and gateway else entry


def _write(plan: Plan, options: ContainerOptions) -> None:
    os.makedirs(plan.folder, mode=0o700, exist_ok=True)
    plan.save()
    write_hosts(Attached(plan))
    text = ""
    with contextlib.suppress(OSError), open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file:
        text = file.read()
    write(
        os.path.join(plan.folder, RESOLV_CONF),
        files.resolv_conf(text, options.dns, options.dns_search, options.dns_options),
    )


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
    changed = replace(plan, name=new, names=tuple(new if name == old else name for name in plan.names))
    records = Records(plan.state)
    with records.locked():
        changed.save()
        current = records.get(plan.namespace, plan.id)
        if current is not None:
            records.put(replace(current, plan=changed))
            records.tell(plan.namespace, [join.network for join in plan.joins])


def networks_of(record: Container) -> list[str]:
    """The names of the networks that a container is to be in when it runs. Blocks on a small file."""
    try:
        plan = Plan.load(native.own_folder(record.labels, record.id))
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [join.network for join in plan.joins]
