"""Copy a tree with all that a file system keeps of it: owners, modes, times, extended attributes, hard links, holes,
devices, fifos and sockets."""

from __future__ import annotations

import errno
import os
import stat

from moorage_api.linux.copying import copy_data
from moorage_api.linux.tree import Left, walk

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What a file system may refuse to take, though it came from one: labels of a security module, and what is not
# supported. containerd leaves such attributes out too.
_REFUSED = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)


def copy_tree(source: str, target: str) -> None:
    """Copy what is in the folder `source`, and the folder's own attributes, to the existing empty folder `target`.

    Nothing is followed, and nothing outside `target` is touched. `OSError` leaves a part of the copy there.
    """
    links: dict[tuple[int, int], str] = {}
    path: list[str] = []
    times: list[tuple[int, int]] = []
    fd = os.open(target, _OPEN_FOLDER)
    rootfd = os.dup(fd)
    try:
        for event in walk(source):
            if isinstance(event, Left):
                os.utime(fd, ns=times.pop())
                if event.fd >= 0:
                    path.pop()
                    fd = _replace(fd, os.open("..", _OPEN_FOLDER, dir_fd=fd))
                continue
            if event.name:
                os.mkdir(event.name, 0o700, dir_fd=fd)
                fd = _replace(fd, os.open(event.name, _OPEN_FOLDER, dir_fd=fd))
                path.append(event.name)
            found = os.fstat(event.fd)
            times.append((found.st_atime_ns, found.st_mtime_ns))
            _copy_attributes(event.fd, fd, found)
            folders = set(event.folders)
            for entry in event.entries:
                if entry.name not in folders:
                    _copy_entry(entry.name, event.fd, fd, rootfd, "/".join(path), links)
    finally:
        os.close(fd)
        os.close(rootfd)


def _copy_entry(
    name: str, source_fd: int, target_fd: int, rootfd: int, path: str, links: dict[tuple[int, int], str]
) -> None:
    """Copy one entry that is no folder. `path` is its folder's within the tree; `links` knows files by device and inode."""
    found = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
    if found.st_nlink > 1:
        key = (found.st_dev, found.st_ino)
        first = links.get(key)
        if first is not None:
            os.link(first, name, src_dir_fd=rootfd, dst_dir_fd=target_fd, follow_symlinks=False)
            return
        links[key] = f"{path}/{name}" if path else name
    if stat.S_ISREG(found.st_mode):
        _copy_file(name, source_fd, target_fd, found)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target_fd)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target_fd, follow_symlinks=False)
    _copy_xattrs(f"/proc/self/fd/{source_fd}/{name}", f"/proc/self/fd/{target_fd}/{name}")
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target_fd)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target_fd, follow_symlinks=False)


def _copy_file(name: str, source_fd: int, target_fd: int, found: os.stat_result) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_fd)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target_fd)
        try:
            copy_data(source, target, found)
            os.ftruncate(target, found.st_size)
            _copy_attributes(source, target, found)
            os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_attributes(source: int, target: int, found: os.stat_result) -> None:
    """Owner, extended attributes, mode: in this order, since a new owner clears capabilities and set-id bits."""
    os.fchown(target, found.st_uid, found.st_gid)
    _copy_xattrs(source, target)
    os.fchmod(target, stat.S_IMODE(found.st_mode))


def _copy_xattrs(source: int | str, target: int | str) -> None:
    follow = not isinstance(source, str)
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return
        raise
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
