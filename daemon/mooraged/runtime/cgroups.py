"""Control groups that a dead OCI runtime left empty."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec

from moorage_api.linux import mount
from mooraged.runtime.bundle import CONFIG

_TYPES = frozenset({"cgroup", "cgroup2"})
_PATIENCE = 1.0
_PAUSE = 0.02


def remove_empty(bundle: Path) -> list[Path]:
    """Remove the container's own cgroup (`linux.cgroupsPath` of the OCI runtime-spec) from every hierarchy; returns those
    that stay because something runs in them.

    A runtime that was killed half-way knows nothing of the cgroups that it had made. Nothing is killed here: the path is
    the client's word. Paths of systemd (`slice:prefix:name`) are systemd's to remove.
    """
    path = _cgroups_path(bundle)
    if not path.startswith("/") or path.strip("/") in ("", ".", "..") or ".." in path.split("/"):
        return []
    folders = [Path(entry.target) / path.lstrip("/") for entry in mount.mountinfo(types=_TYPES) if entry.root == "/"]
    deadline = time.monotonic() + _PATIENCE
    while folders := [folder for folder in folders if not _remove(folder)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)  # its last process is still on its way out
    return folders


def _remove(folder: Path) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _cgroups_path(bundle: Path) -> str:
    try:
        config: Any = msgspec.json.decode((bundle / CONFIG).read_bytes())
        return str((config.get("linux") or {}).get("cgroupsPath") or "")
    except (OSError, msgspec.DecodeError, AttributeError):
        return ""
