"""Apply the edits of CDI devices to an OCI runtime specification."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

import msgspec

from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.oci import spec as oci
from moorage_api.oci.spec import Spec
from moorage_cri.cdi.document import NO_PERMISSIONS, DeviceNode, Edits, Hook, Mount

_TYPES = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}


def apply(spec: Spec, edits: Iterable[Edits]) -> None:
    """Change the specification in place. Device nodes are looked up on the host: `NotFound`, `FailedPrecondition`."""
    for each in edits:
        oci.set_env(spec, each.env)
        for node in each.device_nodes:
            _add_node(spec, node)
        for device in each.net_devices:
            spec["linux"].setdefault("netDevices", {})[device.host_interface_name] = {"name": device.name}
        for mount in each.mounts:
            _add_mount(spec, mount)
        for hook in each.hooks:
            spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(_hook(hook))
        if each.intel_rdt is not None:
            spec["linux"]["intelRdt"] = msgspec.to_builtins(each.intel_rdt)
        _add_groups(spec, each.additional_gids)
    # Shallow places first, so that no mount hides another; the order is else as it was.
    spec["mounts"].sort(key=lambda mount: os.path.normpath(mount["destination"]).count("/"))


def _add_node(spec: Spec, node: DeviceNode) -> None:
    """What the document leaves out is the host's; without an owner the node is the user's of the container."""
    made: dict[str, Any] = {"path": node.path} | _of_host(node)
    if node.file_mode is not None:
        made["fileMode"] = node.file_mode
    user = spec["process"]["user"]
    for key, given in (("uid", node.uid), ("gid", node.gid)):
        if given is not None or user[key] > 0:
            made[key] = user[key] if given is None else given
    if made["type"] == "p":
        _replace_node(spec, made)
        return
    if node.permissions == NO_PERMISSIONS:
        _replace_node(spec, made)
    else:
        oci.add_device(spec, made, node.permissions or "rwm")


def _of_host(node: DeviceNode) -> dict[str, Any]:
    """Type and numbers: those of the document where it has them, else those of the node on the host."""
    path = node.host_path or node.path
    whole = bool(node.type) and (node.major != 0 or node.type == "p")
    try:
        status = os.lstat(path)
    except OSError as error:
        if whole:
            return _numbers(node.type, node.major, node.minor)
        raise NotFound(f"CDI device node {path}: {error.strerror}") from error
    mode = {"fileMode": stat.S_IMODE(status.st_mode)}
    if whole:
        return _numbers(node.type, node.major, node.minor) | mode
    found = _TYPES.get(stat.S_IFMT(status.st_mode), "")
    if not found or (node.type and node.type != found):
        raise FailedPrecondition(f"CDI device node {path} is of type {found or 'none'!r} on the host")
    return _numbers(found, os.major(status.st_rdev), os.minor(status.st_rdev)) | mode


def _numbers(type: str, major: int, minor: int) -> dict[str, Any]:
    return {"type": type} if type == "p" else {"type": type, "major": major, "minor": minor}


def _replace_node(spec: Spec, node: dict[str, Any]) -> None:
    linux = spec["linux"]
    linux["devices"] = [other for other in linux.get("devices", ()) if other["path"] != node["path"]] + [node]


def _add_mount(spec: Spec, mount: Mount) -> None:
    """In a user namespace a bind mount shows the owners of the host mapped to the container's."""
    made: dict[str, Any] = {"destination": mount.container_path, "source": mount.host_path, "options": [*mount.options]}
    if mount.type:
        made["type"] = mount.type
    linux = spec["linux"]
    if linux.get("uidMappings") and mount.type in ("", "bind"):
        made |= {"uidMappings": linux["uidMappings"], "gidMappings": linux["gidMappings"]}
    oci.remove_mounts(spec, mount.container_path)
    spec["mounts"].append(made)


def _hook(hook: Hook) -> dict[str, Any]:
    made: dict[str, Any] = {"path": hook.path}
    if hook.args:
        made["args"] = [*hook.args]
    if hook.env:
        made["env"] = [*hook.env]
    if hook.timeout is not None:
        made["timeout"] = hook.timeout
    return made


def _add_groups(spec: Spec, groups: Iterable[int]) -> None:
    added = [group for group in groups if group]
    if added:
        user = spec["process"]["user"]
        user["additionalGids"] = list(dict.fromkeys([*user.get("additionalGids", ()), *added]))
