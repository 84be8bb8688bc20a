"""Copying a file up from the layers below, as overlayfs does on a write: for a hard link to one of theirs."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from mooraged.differ.folders import open_below
from mooraged.differ.tar.events import LimitError
from mooraged.differ.whiteouts import OVERLAY_OPAQUE

_COPY = 1 << 24
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def find_below(lower: Sequence[str], path: bytes) -> int | None:
    """A descriptor (`O_PATH`) of what the layers `lower`, the uppermost first, show at `path`; None where that is nothing."""
    for root in lower:
        found = open_below(root, path)
        if found is not None:
            status = os.fstat(found)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                os.close(found)
                return None
            return found
        if hides(root, path):
            return None
    return None


def hides(root: str, path: bytes) -> bool:
    """Whether the layer hides what those below it have at `path`, though it has nothing there itself."""
    parent = path.rpartition(b"/")[0]
    while parent:
        found = open_below(root, parent)
        if found is not None:
            try:
                opaque = OVERLAY_OPAQUE in os.listxattr(f"/proc/self/fd/{found}")
                if opaque or not stat.S_ISDIR(os.fstat(found).st_mode):
                    return True
            finally:
                os.close(found)
        parent = parent.rpartition(b"/")[0]
    return False


def copy_up(source: int, folder: int, name: bytes, room: int) -> int:
    """Make `name` in `folder` the same as `source` (`O_PATH`), of whatever kind; returns how many bytes were copied.
    `LimitError` for more than `room`, `OSError`."""
    status = os.fstat(source)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(b"", dir_fd=source), name, dir_fd=folder)
    elif stat.S_ISREG(status.st_mode):
        if status.st_size > room:
            raise LimitError(f"a hard link to a file of {status.st_size} bytes of a layer below: {room} may be copied")
        _copy_data(source, folder, name)
    else:
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=folder)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)
    target = os.fsencode(f"/proc/self/fd/{folder}/") + name
    if not stat.S_ISLNK(status.st_mode):
        origin = f"/proc/self/fd/{source}"
        for key in os.listxattr(origin):
            os.setxattr(target, key, os.getxattr(origin, key), follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=folder)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _copy_data(source: int, folder: int, name: bytes) -> None:
    reader = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        writer = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            while os.copy_file_range(reader, writer, _COPY):
                pass
        finally:
            os.close(writer)
    finally:
        os.close(reader)
