"""Namespaces that are kept by files, so that no process need live for them (namespaces(7))."""

from __future__ import annotations

import os
from contextlib import suppress

from moorage_api.linux import mount, syscalls

_NAMESPACES = "ns"
_SHARED_MEMORY = "shm"


def make_folder(path: str) -> str:
    """Make the folder below `path` that namespaces are pinned in; returns its path.

    It becomes a private mount of its own, so that no other mount namespace gets, and keeps, copies of what is pinned there.
    """
    folder = os.path.join(path, _NAMESPACES)
    os.makedirs(folder, mode=0o711, exist_ok=True)
    syscalls.mount(folder, folder, "", syscalls.MS_BIND)
    syscalls.mount("", folder, "", syscalls.MS_PRIVATE)
    return folder


def mount_shm(path: str, size: int, owner: str = "") -> None:
    """Mount the shared memory of a pod below `path`, `size` bytes at most; `owner` are further options of the tmpfs."""
    folder = os.path.join(path, _SHARED_MEMORY)
    os.makedirs(folder, mode=0o711, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("shm", folder, "tmpfs", flags, f"mode=1777,size={size}{owner}")
    syscalls.mount("", folder, "", syscalls.MS_PRIVATE)


def pin(source: str, target: str) -> None:
    """Keep the namespace of the file `source`, one of `/proc/PID/ns`, by a new file."""
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    syscalls.mount(source, target, "", syscalls.MS_BIND)


def unpin(path: str) -> None:
    """Let go of the namespaces and the shared memory of a pod; fine when there is nothing. What still uses them keeps
    them until it ends."""
    flags = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
    for name in (_NAMESPACES, _SHARED_MEMORY):
        folder = os.path.join(path, name)
        mount.unmount_all(folder, flags)
        with suppress(FileNotFoundError):
            for entry in os.listdir(folder):
                os.unlink(os.path.join(folder, entry))
            os.rmdir(folder)
