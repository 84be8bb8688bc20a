"""Where the files lie that go between a shim and an OCI runtime for the time of one call: in memory.

runc syncs its pid file (O_SYNC), and a file that takes another's place is written out by ext4; where the bundles lie on a
disk, each call waits for it. So the workshop makes a file system in memory that is mounted nowhere (fsmount(2)), which its
workers inherit, and the runtime reaches through a worker's `/proc/PID/fd`: nothing of it is open in the runtime, so nothing
of it can get into a container. It goes with the last of its holders, whatever is left in it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Set
from contextlib import suppress

from moorage_api.linux.syscalls import FileSystemContext

_FIRST_FD = 740
_SIZE = "16m"
_MODE = "0700"

_held: list[int] = []


def open_workshop() -> None:
    """In the workshop: make the file system. Where that is not possible the files lie in the bundles."""
    with suppress(OSError):
        fd = _mount()
        _held.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD))
        os.close(fd)


def path(bundle: str, name: str) -> str:
    """Where a file of that name is to lie; in memory it gets one that nobody had before, since all workers write there."""
    if not _held:
        return os.path.join(bundle, name)
    return f"/proc/{os.getpid()}/fd/{_held[0]}/{os.getpid()}-{time.monotonic_ns()}-{name}"


def descriptors() -> Set[int]:
    """Those that are the process's own, and no shim's."""
    return set(_held)


def forget() -> None:
    """In a process whose descriptors have been closed."""
    _held.clear()


def _mount() -> int:
    context = FileSystemContext("tmpfs")
    try:
        context.set("size", _SIZE)
        context.set("mode", _MODE)
        return context.mount()
    finally:
        context.close()
