"""Network namespaces of pods, pinned to files (namespaces(7)).

The plugin makes them, not the shim: so CNI works on a pod's network while the pod's shim starts, and the namespace is
still there for DEL when a shim has died.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from moorage_api.errors import FailedPrecondition
from moorage_api.linux import mount, syscalls
from moorage_cri.concurrency import own_thread

_FILE = "net"
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_DETACH = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW


class NetworkNamespaces:
    """The namespaces pinned below a folder, by pod. Making and removing do I/O, but wait for nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, id: str) -> str:
        """Where a pod's namespace is, or would be."""
        return str(self._folder / id / _FILE)

    async def make(self, id: str, sysctls: Mapping[str, str]) -> str:
        """A new namespace with its loopback up and these sysctls set; returns its path.

        On an error nothing stays. `FailedPrecondition` for a sysctl that the kernel does not have or take.
        """
        try:
            await own_thread(lambda: _make(self._folder / id, sysctls))
        except BaseException:
            self.remove(id)
            raise
        return self.path(id)

    def remove(self, id: str) -> None:
        """Unpin a pod's namespace; it ends with the last process in it. One that is not there does not matter."""
        folder = self._folder / id
        for target in (folder / _FILE, folder):
            mount.unmount_all(str(target), _DETACH)
        (folder / _FILE).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            folder.rmdir()

    def ids(self) -> list[str]:
        """The pods that have a namespace."""
        return sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []


def _make(folder: Path, sysctls: Mapping[str, str]) -> None:
    """The folder is a private mount, so that no other mount namespace gets, and keeps, a copy of what is pinned in it."""
    folder.mkdir(mode=0o711, parents=True)
    syscalls.mount(folder, folder, "", syscalls.MS_BIND)
    syscalls.mount("", folder, "", syscalls.MS_PRIVATE)
    (folder / _FILE).touch(0o444)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    _loopback_up()
    for name, value in sysctls.items():
        _set(name, value)
    syscalls.mount("/proc/thread-self/ns/net", folder / _FILE, "", syscalls.MS_BIND)


def _loopback_up() -> None:
    """Set the flag UP of `lo` (netdevice(7)); the kernel gives it its addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _set(name: str, value: str) -> None:
    # The kernel shows a thread the sysctls of its own network namespace.
    path = f"/proc/sys/{name if '/' in name else name.replace('.', '/')}"
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise FailedPrecondition(f"sysctl {name}={value}: {error.strerror}") from error
