"""Make the namespaces of a pod and pin them to files, so that no process need live for them (namespaces(7)).

A short-lived child enters new namespaces, sets them up from within, and binds its own `/proc/self/ns` files to the
pod's folder. A PID namespace needs a process that lives (`spawning`), whose file is bound beside them. With a user
namespace the child enters that first, so that it owns the others; its parent, which keeps its rights on the host, does
the binding.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from moorage_api.errors import InvalidArgument
from moorage_api.idmap import IdMapping
from moorage_api.linux import syscalls
from moorage_api.linux.pins import make_folder, mount_shm, pin, unpin
from moorage_api.linux.userns import user_namespace
from moorage_shim.cgroups import write_file
from moorage_shim.spawning import become_root

# Contract's name: (flag of unshare, name of the file under /proc/PID/ns).
KINDS = {
    "user": (syscalls.CLONE_NEWUSER, "user"),
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
    """What to make. `path` gets `ns/` with a file a namespace, and `shm/` when `shm_size` (bytes) is not zero. `uids`
    and `gids` are the mappings of a user namespace."""

    path: str
    kinds: tuple[str, ...]
    hostname: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 0
    uids: IdMapping | None = None
    gids: IdMapping | None = None


def check(plan: PodNamespaces) -> None:
    """`InvalidArgument` for an unknown kind, or for a sysctl of a namespace that is the host's."""
    for kind in plan.kinds:
        if kind not in KINDS:
            raise InvalidArgument(f"unknown namespace {kind!r}: expected one of {', '.join(KINDS)}")
    if "user" in plan.kinds and not (plan.uids and plan.gids):
        raise InvalidArgument("a user namespace needs mappings of user and group ids")
    if plan.hostname and "uts" not in plan.kinds:
        raise InvalidArgument("a hostname needs a UTS namespace of the pod's own")
    for name in plan.sysctls:
        kind = next((kind for prefix, kind in _SYSCTLS if name.startswith(prefix)), "")
        if kind not in plan.kinds or ".." in name or "/" in name:
            raise InvalidArgument(f"sysctl {name!r} is not one of the pod's own namespaces")


def make(plan: PodNamespaces, init: int = 0) -> None:
    """Make and pin them; runs in a child, and raises with all undone. `init` is the pod's init, for its PID namespace;
    that of a user namespace can only be started after this, and is pinned by `pin_init`.
    """
    try:
        folder = make_folder(plan.path)
        if plan.shm_size and "ipc" in plan.kinds:
            owner = f",uid={plan.uids.to_host(0)},gid={plan.gids.to_host(0)}" if plan.uids and plan.gids else ""
            mount_shm(plan.path, plan.shm_size, owner)
        if plan.uids and plan.gids and "user" in plan.kinds:
            with user_namespace(plan.uids, plan.gids) as user:
                pin(f"/proc/self/fd/{user}", os.path.join(folder, "user"))
                with _inhabitant(user, plan) as child:
                    _pin_all(plan, f"/proc/{child}/ns", folder)
        else:
            _enter(plan)
            _pin_all(plan, "/proc/self/ns", folder)
        if init:
            pin_init(plan.path, init)
    except BaseException:
        unpin(plan.path)
        raise


def pin_init(path: str, init: int) -> None:
    """Pin the PID namespace of the pod's init."""
    pin(f"/proc/{init}/ns/pid", os.path.join(path, "ns", "pid"))


def _entered(plan: PodNamespaces) -> list[tuple[int, str]]:
    """Those that a process enters, with a user namespace behind it and before any process of the pod."""
    return [KINDS[kind] for kind in plan.kinds if kind not in ("user", "pid")]


def _enter(plan: PodNamespaces) -> None:
    syscalls.unshare(reduce(or_, (flag for flag, _ in _entered(plan)), 0))
    _set_up(plan)


def _pin_all(plan: PodNamespaces, source: str, folder: str) -> None:
    for _, name in _entered(plan):
        pin(os.path.join(source, name), os.path.join(folder, name))


@contextmanager
def _inhabitant(user: int, plan: PodNamespaces) -> Iterator[int]:
    """A child that lives in the namespaces for as long as the block runs. `OSError` with its reason where it fails."""
    read, write = os.pipe2(os.O_CLOEXEC)
    hold, let_go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        try:
            syscalls.setns(user, syscalls.CLONE_NEWUSER)
            become_root()
            _enter(plan)
            os.close(write)
            os.read(hold, 1)
        except OSError as error:
            os.write(write, f"{error.errno} {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.close(hold)
    try:
        number, _, reason = os.read(read, 4096).decode(errors="replace").partition(" ")
        if number:
            raise OSError(int(number), reason)
        yield pid
    finally:
        os.close(let_go)
        os.close(read)
        os.waitpid(pid, 0)


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
