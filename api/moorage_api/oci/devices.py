"""Device nodes of the host, as OCI runtime specifications describe them (config-linux, devices)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from moorage_api.errors import InvalidArgument, NotFound

# Folders below /dev that hold no devices of the host, or that every container has of its own.
_SKIPPED_FOLDERS = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_SKIPPED_NODES = frozenset({"/dev/console"})


def device(host_path: str, container_path: str = "") -> dict[str, Any]:
    """The node at `host_path`, to appear as `container_path`; symbolic links are followed.

    `NotFound`, or `InvalidArgument` for what is not a device.
    """
    try:
        status = os.stat(host_path)
    except FileNotFoundError as error:
        raise NotFound(f"no device {host_path}") from error
    node = _describe(container_path or host_path, status)
    if node is None:
        raise InvalidArgument(f"{host_path} is not a device")
    return node


def devices(host_path: str, container_path: str = "") -> list[dict[str, Any]]:
    """The node at `host_path`, or all nodes below it where it is a folder. Errors as `device`."""
    if not os.path.isdir(host_path):
        return [device(host_path, container_path)]
    target = (container_path or host_path).rstrip("/")
    return [{**node, "path": target + node["path"][len(host_path.rstrip("/")) :]} for node in _below(host_path)]


def host_devices() -> list[dict[str, Any]]:
    """Every device node of the host, for a privileged container."""
    return list(_below("/dev"))


def _below(folder: str) -> Iterator[dict[str, Any]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() or entry.path in _SKIPPED_NODES:
                continue
            if entry.is_dir():
                if entry.name not in _SKIPPED_FOLDERS:
                    yield from _below(entry.path)
            elif node := _describe(entry.path, entry.stat()):
                yield node


def _describe(path: str, status: os.stat_result) -> dict[str, Any] | None:
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
