"""Folder trees of any depth: walk, remove, measure.

A container may make folders so deep that no path names them and no recursion reaches them. These functions hold two
descriptors at most, go down with openat and up with `..`, and never follow a symbolic link.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Entered:
    """A folder begins. `fd` is good until the next event. Names taken out of `folders` are not walked."""

    fd: int
    name: str
    entries: list[os.DirEntry[str]]
    folders: list[str]


@dataclass(slots=True)
class Left:
    """A folder has been walked; `fd` is that of the folder around it, -1 after the root. Good until the next event."""

    fd: int
    name: str


@dataclass(slots=True)
class _Level:
    name: str
    identity: tuple[int, int]
    folders: list[str] = field(default_factory=list)


def walk(root: str) -> Iterator[Entered | Left]:
    """Walk the tree below the folder `root`, each folder entered and left; in each, entries in the order of names.

    A folder that is gone when its turn comes is passed over. `ESTALE` when a folder was moved away during its walk.
    """
    fd = os.open(root, _OPEN)
    levels: list[_Level] = []
    try:
        yield _enter(fd, "", levels)
        while levels:
            level = levels[-1]
            if level.folders:
                name = level.folders.pop()
                child = _open_child(fd, name)
                if child < 0:
                    continue
                os.close(fd)
                fd = child
                yield _enter(fd, name, levels)
                continue
            levels.pop()
            if levels:
                fd = _ascend(fd, levels[-1].identity, root)
                yield Left(fd, level.name)
            else:
                yield Left(-1, "")
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove the folder `path` and all in it; what is gone already is fine. Mounts below it are `EBUSY`, and stay."""
    try:
        for event in walk(path):
            if isinstance(event, Left):
                if event.fd >= 0:
                    with suppress(FileNotFoundError):
                        os.rmdir(event.name, dir_fd=event.fd)
                continue
            folders = set(event.folders)
            for entry in event.entries:
                if entry.name not in folders:
                    with suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=event.fd)
            # Those with nothing in them without a look at it: of a snapshot nobody has written to that is all of them.
            event.folders[:] = [name for name in event.folders if not _is_removed(event.fd, name)]
        os.rmdir(path)
    except FileNotFoundError:
        return


def _is_removed(fd: int, name: str) -> bool:
    """Remove the folder `name`, if that can be done as it is; why it cannot be shows when it is walked."""
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError:
        return False
    return True


def disk_usage(path: str) -> tuple[int, int]:
    """Bytes on disk (blocks of 512) and inodes of the tree at `path`, itself included; hard links count once.

    Files that come and go meanwhile are counted or not.
    """
    size = 0
    seen: set[tuple[int, int]] = set()
    inodes = 0
    for event in walk(path):
        if isinstance(event, Left):
            continue
        own = os.fstat(event.fd)
        size += own.st_blocks * 512
        inodes += 1
        folders = set(event.folders)
        for entry in event.entries:
            if entry.name in folders:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if found.st_nlink > 1:
                key = (found.st_dev, found.st_ino)
                if key in seen:
                    continue
                seen.add(key)
            size += found.st_blocks * 512
            inodes += 1
    return size, inodes


def _enter(fd: int, name: str, levels: list[_Level]) -> Entered:
    with os.scandir(fd) as listing:
        entries = sorted(listing, key=_name)
    folders = [entry.name for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
    found = os.fstat(fd)
    levels.append(_Level(name, (found.st_dev, found.st_ino), folders))
    return Entered(fd, name, entries, folders)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _open_child(fd: int, name: str) -> int:
    """A descriptor of the folder `name`, or -1 where it is none any more."""
    try:
        return os.open(name, _OPEN, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise


def _ascend(fd: int, identity: tuple[int, int], root: str) -> int:
    """Close `fd` and return its parent, which must be the folder that `identity` says."""
    parent = os.open("..", _OPEN, dir_fd=fd)
    found = os.fstat(parent)
    if (found.st_dev, found.st_ino) != identity:
        os.close(parent)
        raise OSError(errno.ESTALE, "a folder was moved while its tree was walked", root)
    os.close(fd)
    return parent
