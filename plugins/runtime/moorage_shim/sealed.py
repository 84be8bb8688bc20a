"""Sealed copies of the OCI runtimes, made once by the workshop and inherited by its workers.

runc and crun must not be written to by a container that gets hold of them through /proc/PID/exe (CVE-2019-5736). So each call
begins with making a copy or a read-only mount of itself and executing that; crun's leaves an empty file in /tmp
when it is killed meanwhile. Started from a sealed memory file (memfd_create(2)) they see that it is done already.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Set

SCRATCH_VARIABLE = "_LIBCONTAINER_STATEDIR"
"""Names the folder in which an OCI runtime copies itself when it is not sealed; without it that is /tmp."""

# The seals that runc and crun look for, no more and no less.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10
_FIRST_FD = 750
_SIZE_MAX = 32 << 20
_MOST = 4
_NAMES = frozenset({"runc", "crun"})
_ELF = b"\x7fELF"

_Identity = tuple[int, int, int, int]
_copies: dict[str, tuple[_Identity, int]] = {}
_asking: list[socket.socket] = []


def open_workshop() -> socket.socket:
    """In the workshop: where it reads which copies its workers miss (`serve`)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    _asking.append(socket.socket(fileno=_move(theirs.detach())))
    _asking[0].setblocking(False)
    return ours


def serve(requests: socket.socket) -> None:
    """In the workshop: make a copy that somebody has asked for. One that can't be made is not."""
    path = os.fsdecode(requests.recv(4096))
    if _current(path) < 0 and len(_copies) < _MOST:
        try:
            _copies[path] = _identity(path), _copy(path)
        except OSError:
            return


def find(path: str) -> int:
    """The descriptor of a program's copy; -1 for one that there is not, or not yet: the next worker has it."""
    found = _current(path)
    if found < 0 and _asking and os.path.basename(path) in _NAMES:
        try:
            _asking[0].send(os.fsencode(path))
        except OSError:
            return -1
    return found


def descriptors() -> Set[int]:
    """Those that are the process's own, and no shim's."""
    return {fd for _, fd in _copies.values()} | {each.fileno() for each in _asking}


def forget() -> None:
    """In a process whose descriptors have been closed."""
    _copies.clear()
    for each in _asking:
        each.detach()
    _asking.clear()


def _current(path: str) -> int:
    """A program that has been replaced by another since is closed."""
    known, fd = _copies.get(path, ((0, 0, 0, 0), -1))
    if fd >= 0 and known != _identity(path):
        os.close(fd)
        del _copies[path]
        return -1
    return fd


def _identity(path: str) -> _Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _copy(path: str) -> int:
    """Opened for reading alone: a file that somebody may write to is not executed."""
    with open(path, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        if size > _SIZE_MAX or os.pread(source.fileno(), len(_ELF), 0) != _ELF:
            # Too large; or a script, whose interpreter could not open the copy.
            raise OSError(f"{path} is not to be copied")
        draft = _memory_file(os.path.basename(path))
        try:
            while os.sendfile(draft, source.fileno(), None, size):
                pass
            fcntl.fcntl(draft, fcntl.F_ADD_SEALS, _SEALS)
            return _move(os.open(f"/proc/self/fd/{draft}", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            os.close(draft)


def _memory_file(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:
        # Before Linux 6.3 there is no such flag, and no need of it.
        return os.memfd_create(name, flags)


def _move(fd: int) -> int:
    """Out of the way of a shim's descriptors."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    os.close(fd)
    return moved
