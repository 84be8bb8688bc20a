"""Whether, and how, overlayfs works on the file system of a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moorage_api.linux.mount import mountinfo, temporary_mount
from moorage_api.linux.tree import remove_tree
from moorage_api.mounts import Mount

_WHOLE_RANGE = ["0", "0", "4294967295"]


def overlay_problem(root: Path, options: Sequence[str] = ()) -> str:
    """Why overlayfs cannot be used below `root`; empty when it can. Found by doing what a container does.

    A deleted file must be gone: where the file system does not tell folders from files in its listings (XFS made with
    `ftype=0`), overlayfs mounts, and then shows its whiteouts.
    """
    probe = tempfile.mkdtemp(prefix="overlay-probe-", dir=root)
    try:
        for name in ("lower1", "lower2", "upper", "work"):
            os.mkdir(f"{probe}/{name}")
        with open(f"{probe}/lower1/file", "wb"):
            pass
        layers = (f"lowerdir={probe}/lower2:{probe}/lower1", f"upperdir={probe}/upper", f"workdir={probe}/work")
        with temporary_mount([Mount("overlay", "overlay", options=(*layers, *options))], probe) as merged:
            os.unlink(f"{merged}/file")
            if os.listdir(merged):
                return f"{root}: the file system ({file_system_type(root)}) has no file types in its listings (d_type)"
    except OSError as error:
        return f"{root}: overlayfs does not work on this file system ({file_system_type(root)}): {error.strerror}"
    finally:
        remove_tree(probe)
    return ""


def maps_ids(root: Path, *, overlay: bool = True) -> bool:
    """Whether files below `root` can be seen through a mapping of ids, on their own or as the layers of an overlay: what
    clients know as the capability `remap-ids`. Found by doing it."""
    probe = tempfile.mkdtemp(prefix="mapping-probe-", dir=root)
    try:
        for name in ("lower1", "lower2"):
            os.mkdir(f"{probe}/{name}")
        mapping = ("uidmap=0:1:1", "gidmap=0:1:1")
        request = Mount("bind", probe, options=("bind", *mapping))
        if overlay:
            request = Mount("overlay", "overlay", options=(f"lowerdir={probe}/lower2:{probe}/lower1", *mapping))
        with temporary_mount([request], str(root)) as mapped:
            return os.stat(mapped).st_uid == 1
    except OSError:
        return False
    finally:
        remove_tree(probe)


def default_options(given: Sequence[str]) -> tuple[str, ...]:
    """`given`, and what containerd adds: `index=off` (a layer is in many overlays at once), `userxattr` in a user
    namespace, where overlayfs may not use `trusted` attributes."""
    keys = {option.partition("=")[0] for option in given}
    options = list(given)
    if "index" not in keys and os.path.exists("/sys/module/overlay/parameters/index"):
        options.append("index=off")
    if "userxattr" not in keys and in_user_namespace():
        options.append("userxattr")
    return tuple(options)


def in_user_namespace() -> bool:
    """Whether this process runs in a user namespace other than the first."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as lines:
            return lines.readline().split() != _WHOLE_RANGE
    except FileNotFoundError:
        return False


def file_system_type(folder: Path) -> str:
    """The name of the file system that `folder` lies on, as `/proc/mounts` has it; for messages."""
    path = os.path.realpath(folder)
    best = max(
        (entry for entry in mountinfo() if os.path.commonpath((entry.target, path)) == entry.target),
        key=lambda entry: len(entry.target),
        default=None,
    )
    return best.type if best else "unknown"
