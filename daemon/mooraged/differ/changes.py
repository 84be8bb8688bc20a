"""What a snapshot changed: read from the upper folder of an overlay, or found by comparing two trees.

Both put it into a layer in the same order: a folder, what is in it that is no folder by name, then its folders by name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from moorage_api.linux import syscalls
from moorage_api.linux.tree import Left, walk
from mooraged.differ.layer import Layer
from mooraged.differ.whiteouts import OVERLAY_OPAQUE

_CAPABILITY = "security.capability"
_SECOND = 1_000_000_000
_CHUNK = 1 << 18
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS


def from_upper(upper: str, layer: Layer) -> None:
    """Put all that the upper folder of an overlay holds into `layer`, its deletions as whiteouts."""
    path: list[bytes] = []
    for event in walk(upper):
        if isinstance(event, Left):
            del path[-1:]
            continue
        if event.name:
            path.append(os.fsencode(event.name))
            here = b"/".join(path)
            layer.add_folder(here, event.fd)
            if _is_opaque(event.fd):
                layer.opaque(here)
        folders = set(event.folders)
        for entry in event.entries:
            if entry.name in folders:
                continue
            name = os.fsencode(entry.name)
            child = b"/".join((*path, name))
            if _is_whiteout(entry.stat(follow_symlinks=False)):
                layer.remove(child)
            else:
                layer.add(child, event.fd, name)


def from_trees(lower: str, upper: str, layer: Layer) -> None:
    """Put what differs between two trees into `layer`. A folder that has not changed is named where something in it has."""
    comparison = _Comparison(lower, upper, layer)
    try:
        comparison.run(upper)
    finally:
        comparison.close()


class _Comparison:
    """Two trees side by side; the upper one is walked, the lower one looked up."""

    def __init__(self, lower: str, upper: str, layer: Layer) -> None:
        self._lower = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._upper = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._layer = layer
        self._path: list[bytes] = []
        # How many of the folders in `_path`, from the root on, are in the layer.
        self._named = 0

    def close(self) -> None:
        os.close(self._lower)
        os.close(self._upper)

    def run(self, upper: str) -> None:
        for event in walk(upper):
            if isinstance(event, Left):
                del self._path[-1:]
                self._named = min(self._named, len(self._path))
                continue
            if event.name:
                self._path.append(os.fsencode(event.name))
            with self._folder_below() as below:
                if event.name and (below is None or _differs(below, event.fd, None)):
                    self._name_folders()
                self._compare(below, event.fd, event.entries, set(event.folders))

    def _compare(self, below: int | None, above: int, entries: list[os.DirEntry[str]], folders: set[str]) -> None:
        """Compare what is in one folder of both trees, `below` (None where the lower has none) and `above`."""
        gone = set(os.listdir(below)) if below is not None else set()
        for entry in entries:
            known = entry.name in gone
            gone.discard(entry.name)
            if entry.name in folders:
                continue
            name = os.fsencode(entry.name)
            child = b"/".join((*self._path, name))
            if below is None or not known or _differs(below, above, name):
                self._name_folders()
                self._layer.add(child, above, name)
            else:
                self._layer.leave(child, entry.stat(follow_symlinks=False))
        for missing in sorted(gone):
            self._name_folders()
            self._layer.remove(b"/".join((*self._path, os.fsencode(missing))))

    def _name_folders(self) -> None:
        """Put the folder that the walk is in, and those around it, into the layer if they are not there yet."""
        while self._named < len(self._path):
            self._named += 1
            path = b"/".join(self._path[: self._named])
            fd = syscalls.openat2(self._upper, path, os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
            try:
                self._layer.add_folder(path, fd)
            finally:
                os.close(fd)

    @contextmanager
    def _folder_below(self) -> Iterator[int | None]:
        """The lower tree's folder of the same path; None where it has none."""
        path = b"/".join(self._path) or b"."
        try:
            fd = syscalls.openat2(self._lower, path, os.O_RDONLY | os.O_DIRECTORY, resolve=_INSIDE)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)


def _differs(below: int, above: int, name: bytes | None) -> bool:
    """Whether `name` in two folders differs (None: the folders themselves), as containerd compares: by what stat says; a
    time of whole seconds may have been cut in an archive, so that such files are read."""
    lower, upper = _stat(below, name), _stat(above, name)
    if (lower.st_dev, lower.st_ino) == (upper.st_dev, upper.st_ino):
        return False
    if _identity(lower) != _identity(upper) or _capability(below, name) != _capability(above, name):
        return True
    if name is None or stat.S_ISDIR(upper.st_mode):
        return False
    if stat.S_ISLNK(upper.st_mode):
        return os.readlink(name, dir_fd=below) != os.readlink(name, dir_fd=above)
    if lower.st_size != upper.st_size or lower.st_mtime_ns != upper.st_mtime_ns:
        return True
    if not stat.S_ISREG(upper.st_mode) or upper.st_mtime_ns % _SECOND:
        return False
    return not _same_bytes(below, above, name)


def _stat(fd: int, name: bytes | None) -> os.stat_result:
    return os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid, found.st_rdev


def _capability(fd: int, name: bytes | None) -> bytes:
    path = os.fsencode(f"/proc/self/fd/{fd}") + (b"/" + name if name is not None else b"")
    return _xattr(path, _CAPABILITY, follow=name is None)


def _xattr(path: bytes, key: str, *, follow: bool = True) -> bytes:
    """An extended attribute; empty where there is none, or the file system has no such thing."""
    try:
        return os.getxattr(path, key, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def _same_bytes(below: int, above: int, name: bytes) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, flags, dir_fd=below), "rb", buffering=0) as lower,
        open(os.open(name, flags, dir_fd=above), "rb", buffering=0) as upper,
    ):
        while True:
            expected = lower.read(_CHUNK)
            if expected != upper.read(_CHUNK):
                return False
            if not expected:
                return True


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    return _xattr(os.fsencode(f"/proc/self/fd/{fd}"), OVERLAY_OPAQUE) == b"y"
