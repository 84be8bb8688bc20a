"""Make the namespaces of a pod and pin them to files, so that no process need live for them (namespaces(7)).

A short-lived child enters new namespaces, sets them up from within, and binds its own `/proc/self/ns` files to the
pod's folder. A PID namespace needs a process that lives (`podinit`), whose file is bound beside them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from moorage_api.errors import InvalidArgument
from moorage_api.linux import mount, syscalls
from moorage_shim.cgroups import write_file

# Contract's name: (flag of unshare, name of the file under /proc/PID/ns).
KINDS = {
    "network": (syscalls.CLONE_NEWNET, "net"),
    "ipc": (syscalls.CLONE_NEWIPC, "ipc"),
    "uts": (syscalls.CLONE_NEWUTS, "uts"),
    "pid": (syscalls.CLONE_NEWPID, "pid"),
}

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
# Sysctls that belong to a namespace: only in the pod's own may a pod set them.
_SYSCTLS = (
    ("net.", "network"),
    ("kernel.shm", "ipc"),
    ("kernel.msg", "ipc"),
    ("kernel.sem", "ipc"),
    ("fs.mqueue.", "ipc"),
    ("kernel.hostname", "uts"),
    ("kernel.domainname", "uts"),
)


@dataclass(frozen=True, slots=True)
class PodNamespaces:
    """What to make. `path` gets `ns/` with a file a namespace, and `shm/` when `shm_size` (bytes) is not zero."""

    path: str
    kinds: tuple[str, ...]
    hostname: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 0


def check(plan: PodNamespaces) -> None:
    """`InvalidArgument` for an unknown kind, or for a sysctl of a namespace that is the host's."""
    for kind in plan.kinds:
        if kind not in KINDS:
            raise InvalidArgument(f"unknown namespace {kind!r}: expected one of {', '.join(KINDS)}")
    if plan.hostname and "uts" not in plan.kinds:
        raise InvalidArgument("a hostname needs a UTS namespace of the pod's own")
    for name in plan.sysctls:
        kind = next((kind for prefix, kind in _SYSCTLS if name.startswith(prefix)), "")
        if kind not in plan.kinds or ".." in name or "/" in name:
            raise InvalidArgument(f"sysctl {name!r} is not one of the pod's own namespaces")


def make(plan: PodNamespaces, init: int = 0) -> None:
    """Make and pin them; runs in a child, and raises with all undone. `init` is the pod's init, for its PID namespace.

    The folder becomes a private mount of its own, so that no other mount namespace gets, and keeps, copies of what is
    pinned there.
    """
    folder = os.path.join(plan.path, "ns")
    os.makedirs(folder, mode=0o711, exist_ok=True)
    try:
        syscalls.mount(folder, folder, "", syscalls.MS_BIND)
        syscalls.mount("", folder, "", syscalls.MS_PRIVATE)
        if plan.shm_size and "ipc" in plan.kinds:
            _mount_shm(plan)
        kinds = [KINDS[kind] for kind in plan.kinds if kind != "pid"]
        syscalls.unshare(reduce(or_, (flag for flag, _ in kinds), 0))
        _set_up(plan)
        for _, name in kinds:
            _pin(f"/proc/self/ns/{name}", os.path.join(folder, name))
        if init:
            _pin(f"/proc/{init}/ns/pid", os.path.join(folder, "pid"))
    except BaseException:
        unpin(plan.path)
        raise


def unpin(path: str) -> None:
    """Let go of the namespaces and the shared memory of a pod; fine when there is nothing. What still uses them keeps
    them until it ends."""
    flags = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
    for name in ("ns", "shm"):
        folder = os.path.join(path, name)
        mount.unmount_all(folder, flags)
        with suppress(FileNotFoundError):
            for entry in os.listdir(folder):
                os.unlink(os.path.join(folder, entry))
            os.rmdir(folder)


def _set_up(plan: PodNamespaces) -> None:
    if plan.hostname:
        socket.sethostname(plan.hostname)
    if "network" in plan.kinds:
        _loopback_up()
    for name, value in plan.sysctls.items():
        path = "/proc/sys/" + name.replace(".", "/")
        try:
            write_file(path, value)
        except OSError as error:
            raise OSError(error.errno, f"sysctl {name}={value}: {error.strerror}") from error


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _mount_shm(plan: PodNamespaces) -> None:
    folder = os.path.join(plan.path, "shm")
    os.makedirs(folder, mode=0o711, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("shm", folder, "tmpfs", flags, f"mode=1777,size={plan.shm_size}")
    syscalls.mount("", folder, "", syscalls.MS_PRIVATE)


def _pin(source: str, target: str) -> None:
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    syscalls.mount(source, target, "", syscalls.MS_BIND)
