"""Folders within a root, by descriptor. Nothing that an archive says leads out of the root.

Symbolic links on the way are followed as they would be with the root as `/`: by the kernel (`RESOLVE_IN_ROOT`), or, where
a folder is missing and has to be made, one name at a time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from moorage_api.linux import syscalls
from mooraged.differ.tar.events import TarError

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_CHILD = _OPEN | os.O_NOFOLLOW
_CACHED = 256
_LINKS_MAX = 255


class Folders:
    """Descriptors (`O_PATH`) of the folders below `root`, the last ones used kept open.

    Paths are cleaned ones: no empty names, no `.` or `..`, no slash at either end; empty for the root itself. A
    descriptor is good until the next call. `made` is called with the path of each folder that had to be made, its
    parent's descriptor and its name; `opened` with the path and the status of each folder before it is used.
    """

    def __init__(
        self,
        root: str,
        made: Callable[[bytes, int, bytes], None],
        opened: Callable[[bytes, os.stat_result], None],
    ) -> None:
        self.root = os.open(root, _OPEN)
        self._made = made
        self._opened = opened
        self._open: dict[bytes, int] = {}
        self._setgid = {self.root} if os.fstat(self.root).st_mode & stat.S_ISGID else set()

    def close(self) -> None:
        self.forget()
        os.close(self.root)

    def forget(self) -> None:
        """Close all but the root: a folder or a link was removed, and paths may lead elsewhere now."""
        for fd in self._open.values():
            os.close(fd)
        self._setgid.difference_update(self._open.values())
        self._open.clear()

    def gives_group(self, fd: int) -> bool:
        """Whether what is made in the folder gets the folder's group. A folder that becomes one that does has to be
        forgotten."""
        return fd in self._setgid

    def find(self, path: bytes) -> int:
        """The folder at `path`. `FileNotFoundError`, `NotADirectoryError`, or another `OSError`."""
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is None:
            fd = self._open_folder(path)
            self._keep(path, fd)
        return fd

    def make(self, path: bytes) -> int:
        """The folder at `path`; what is missing of it is made, mode 0755."""
        known = self._open.get(path)
        if known is not None:
            return known
        try:
            return self.find(path)
        except FileNotFoundError:
            fd = self._make_missing(path)
            self._keep(path, fd)
            return fd

    def _open_folder(self, path: bytes) -> int:
        parent, _, name = path.rpartition(b"/")
        parent_fd = self._open.get(parent) if parent else self.root
        if parent_fd is not None:
            try:
                return os.open(name, _OPEN_CHILD, dir_fd=parent_fd)
            except NotADirectoryError:
                # A symbolic link, perhaps to a folder.
                pass
        return syscalls.openat2(self.root, path, _OPEN)

    def _keep(self, path: bytes, fd: int) -> None:
        if len(self._open) >= _CACHED:
            old = self._open.pop(next(iter(self._open)))
            self._setgid.discard(old)
            os.close(old)
        self._open[path] = fd
        status = os.fstat(fd)
        self._opened(path, status)
        if status.st_mode & stat.S_ISGID:
            self._setgid.add(fd)

    def _make_missing(self, path: bytes) -> int:
        """Walk `path` name by name, following links within the root, and make what is not there."""
        resolved: list[bytes] = []
        pending = path.split(b"/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if resolved:
                    resolved.pop()
                continue
            with _Opened(self.root, resolved) as parent:
                target = self._step(parent, resolved, name)
            if target is None:
                resolved.append(name)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                resolved.clear()
            pending.extend(target.split(b"/")[::-1])
        return _open_resolved(self.root, resolved)

    def _step(self, parent: int, resolved: list[bytes], name: bytes) -> bytes | None:
        """Make the folder `name` if it is missing; returns its target if it is a symbolic link."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            if resolved:
                self._opened(b"/".join(resolved), os.fstat(parent))
            os.mkdir(name, 0o755, dir_fd=parent)
            self._made(b"/".join([*resolved, name]), parent, name)
            return None
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(name, dir_fd=parent)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return None


class _Opened:
    """A folder by resolved names, open for a while."""

    def __init__(self, root: int, names: list[bytes]) -> None:
        self._fd = _open_resolved(root, names)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open_resolved(root: int, names: list[bytes]) -> int:
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
    return syscalls.openat2(root, b"/".join(names) or b".", _OPEN, resolve=resolve)


def clean(name: bytes, max_depth: int, max_path: int) -> bytes:
    """An archive's name as a path below the root: `./a//b/` and `/a/b` are both `a/b`; the root is empty.

    `..` takes back the name before it, as text. `TarError` where it climbs above the root, or the path is too long or too
    deep.
    """
    path = name.strip(b"/")
    if b"/." in path or b"//" in path or path.startswith(b"."):
        path = _clean_slowly(path)
    if len(path) > max_path:
        raise TarError(f"a path of {len(path)} bytes: at most {max_path}")
    if path.count(b"/") >= max_depth:
        raise TarError(f"a path of {path.count(b'/') + 1} names: at most {max_depth}")
    return path


def link_target(link: bytes, path: bytes, max_depth: int, max_path: int) -> tuple[bytes, bytes]:
    """Folder and name of the file that the hard link at the cleaned `path` stands for, both below the root. `TarError` where it
    stands for itself or the root, or is no path (`clean`)."""
    target = clean(link, max_depth, max_path)
    if target == path:
        raise TarError("a hard link to itself")
    parent, _, name = target.rpartition(b"/")
    if not name:
        raise TarError("a hard link to the root")
    return parent, name


def _clean_slowly(path: bytes) -> bytes:
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            if not names:
                raise TarError("the path climbs above the root")
            names.pop()
        elif name not in (b"", b"."):
            names.append(name)
    return b"/".join(names)


def open_below(root: str, path: bytes) -> int | None:
    """A descriptor (`O_PATH`) of what is at `path` below the folder `root`; None where nothing is."""
    rootfd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.openat2(rootfd, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    finally:
        os.close(rootfd)
