"""A tree as a value: all that an image's layers decide of it, for comparison."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from moorage.client import Client
from moorage_api.linux.mount import temporary_mount
from moorage_api.snapshots import Kind

Listing = dict[str, tuple[object, ...]]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
}


def listing(root: str | Path) -> Listing:
    """For each path: kind, mode, owner, time, what it holds (size and digest, target, device), attributes, and the paths that
    are the same file. The root itself, which belongs to the snapshotter, is left out."""
    found: dict[str, tuple[os.stat_result, tuple[object, ...]]] = {}
    same: dict[tuple[int, int], list[str]] = {}
    phantoms: Listing = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, top).decode("utf-8", "backslashreplace")
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                phantoms[relative] = ("listed, and not there",)
                continue
            found[relative] = status, (*_status(status), _content(path, status), _attributes(path))
            if not stat.S_ISDIR(status.st_mode):
                same.setdefault((status.st_dev, status.st_ino), []).append(relative)
    names = {name: tuple(sorted(paths)) for paths in same.values() for name in paths}
    return phantoms | {name: (*entry, names.get(name, (name,))) for name, (_, entry) in sorted(found.items())}


async def tree_of(client: Client, snapshotter: str, name: str) -> Listing:
    """What a committed snapshot shows."""
    async with client.leased() as leased:
        snapshots = leased.snapshots(snapshotter)
        with temporary_mount(await snapshots.view(f"look {name}", name)) as root:
            found = listing(root)
        await snapshots.remove(f"look {name}")
    return found


async def committed_trees(client: Client, snapshotter: str) -> dict[str, Listing]:
    """The tree of each committed snapshot."""
    known = await client.snapshots(snapshotter).list()
    return {info.name: await tree_of(client, snapshotter, info.name) for info in known if info.kind is Kind.COMMITTED}


def differences(one: Listing, other: Listing) -> list[str]:
    """A line for each path that differs; at most twenty."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return [f"{name}: {one.get(name)} and {other.get(name)}" for name in names[:20]]


def _status(status: os.stat_result) -> tuple[object, ...]:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    mode = stat.S_IMODE(status.st_mode) if kind != "link" else 0o777
    return kind, oct(mode), status.st_uid, status.st_gid, status.st_mtime_ns


def _content(path: bytes, status: os.stat_result) -> object:
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return status.st_size, hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return os.major(status.st_rdev), os.minor(status.st_rdev)
    return None


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    """Extended attributes, but those that file systems and security modules keep for themselves."""
    names = os.listxattr(path, follow_symlinks=False)
    own = [name for name in names if not name.startswith(("trusted.", "security.selinux"))]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(own))
