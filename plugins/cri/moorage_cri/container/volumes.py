"""Volumes that an image declares (`VOLUME`): a folder on the host each, begun with what the image has there."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moorage_api.errors import InvalidArgument
from moorage_api.linux import syscalls
from moorage_api.linux.mount import temporary_mount
from moorage_api.mounts import Mount
from moorage_api.wire import cri_pb2
from moorage_cri.container.mounts import Bind

_DEPTH_MAX = 64
_ROOT_MODE = 0o755


def declared(volumes: Iterable[str], mounts: Iterable[cri_pb2.Mount]) -> list[str]:
    """The volumes of an image that the caller does not mount something else at."""
    taken = {os.path.normpath(mount.container_path) for mount in mounts}
    found = sorted({os.path.normpath(os.path.join("/", volume)) for volume in volumes})
    return [volume for volume in found if volume not in taken and volume != "/"]


def make(destinations: list[str], folder: Path, rootfs: list[Mount]) -> list[Bind]:
    """Make a volume below `folder` for each destination, with its contents in the root file system `rootfs`, and with
    the ids that they have in the image.

    This does I/O. Links in the image are followed within it alone. `InvalidArgument` for more than 64 nested folders.
    """
    binds = []
    with temporary_mount(rootfs) as target, _folder(target) as root:
        for destination in destinations:
            volume = folder / secrets.token_hex(16)
            volume.mkdir(mode=_ROOT_MODE, parents=True)
            _fill(root, destination, volume)
            binds.append(Bind(destination, str(volume), ("rbind", "rprivate", "rw"), mapped=True))
    return binds


@contextmanager
def _folder(path: str, dir_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _fill(root: int, destination: str, volume: Path) -> None:
    try:
        source = syscalls.openat2(root, destination.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with _folder(str(volume)) as target:
            _copy_folder(source, target, 0)
    finally:
        os.close(source)


def _copy_folder(source: int, target: int, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise InvalidArgument(f"the image's volume has more than {_DEPTH_MAX} nested folders")
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, dir_fd=target)
            with _folder(name, source) as inner_source, _folder(name, target) as inner_target:
                _copy_folder(inner_source, inner_target, depth + 1)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(source, target, name, status)
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    with open(reading, "rb") as old:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
        with open(writing, "wb") as new:
            shutil.copyfileobj(old, new)
            os.fchown(writing, status.st_uid, status.st_gid)
            os.fchmod(writing, stat.S_IMODE(status.st_mode))
