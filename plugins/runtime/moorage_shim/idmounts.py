"""ID-mapped bind mounts of a container (OCI runtime-spec, config.md, `uidMappings` of a mount).

Not every OCI runtime can make them. So they are made here, in the bundle, and the runtime gets plain bind mounts of
them: a copy of a mount is mapped as the mount is. They are there for as long as the runtime takes to make the container.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from moorage_api import idmap
from moorage_api.linux import idmapped, mount, syscalls
from moorage_api.linux.userns import user_namespace
from moorage_shim.spec import replace_file

_FOLDER = "idmapped"
_KEYS = ("uidMappings", "gidMappings")
_WORDS = frozenset({"idmap", "ridmap"})


def wanted(bundle: str) -> bool:
    """Whether something in a bundle's configuration may have to be mapped; quick, and at times wrongly true."""
    with open(os.path.join(bundle, "config.json"), "rb") as file:
        return _KEYS[0].encode() in file.read()


def attach(bundle: str) -> None:
    """Make the mapped mounts of a bundle, and have its configuration name them. Runs in a child; `detach` undoes it."""
    path = os.path.join(bundle, "config.json")
    config = json.loads(Path(path).read_bytes())
    found = [each for each in config.get("mounts") or () if any(each.get(key) for key in _KEYS)]
    if not found:
        return
    folder = os.path.join(bundle, _FOLDER)
    os.makedirs(folder, mode=0o711, exist_ok=True)
    for number, entry in enumerate(found):
        _attach_one(entry, os.path.join(folder, str(number)))
    replace_file(path, json.dumps(config).encode())


def detach(bundle: str) -> None:
    """Take the mounts down; nothing where there are none."""
    folder = os.path.join(bundle, _FOLDER)
    if not os.path.isdir(folder):
        return
    mount.unmount_recursive(folder, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    for name in os.listdir(folder):
        place = os.path.join(folder, name)
        if os.path.isdir(place):
            os.rmdir(place)
        else:
            os.unlink(place)
    os.rmdir(folder)


def _attach_one(entry: dict[str, Any], place: str) -> None:
    options = entry.get("options") or []
    uids, gids = (_mapping(entry.pop(key, None) or []) for key in _KEYS)
    with user_namespace(uids, gids) as namespace:
        tree = idmapped.map_tree(entry["source"], namespace, recursive="ridmap" in options)
    try:
        if os.path.isdir(entry["source"]):
            os.mkdir(place, 0o711)
        else:
            Path(place).touch(0o600)
        syscalls.move_mount(tree, place)
    finally:
        os.close(tree)
    entry["source"] = place
    entry["options"] = [option for option in options if option not in _WORDS]


def _mapping(ranges: list[dict[str, int]]) -> idmap.IdMapping:
    return idmap.IdMapping(tuple(idmap.IdRange(each["containerID"], each["hostID"], each["size"]) for each in ranges))
