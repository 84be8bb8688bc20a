"""Have the kernel's lock on control groups ready when an OCI runtime comes to need it.

Whoever moves a process into a control group takes `cgroup_threadgroup_rwsem` for writing, and the first to do so waits for
a grace period of RCU (percpu-rwsem; 6 ms and more, of the 13 ms that `runc exec` takes); who comes before the end of the next
period need not. An OCI runtime comes to it in the middle of `create` and `exec`, and waits there with nothing else to do.
So the daemon takes the lock itself when it is asked for a process, and again and again until the runtime must have come to it.

It does so by moving itself to the control group in which it is, which changes nothing. Where that is not allowed
nothing is lost but the time. With the mount option `favordynmods` (Linux 6.0) there is no wait to be saved.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor

from moorage_api.cgroups.location import V2, below, hierarchies, memberships

_PROCS = "cgroup.procs"
_GROUPS = "/proc/self/cgroup"
_GROUPS_MAX = 64 << 10
_ITSELF = b"0"
# From the request to where the runtime joins a group, and what a grace period lasts at least.
_SECONDS = 0.02
_PAUSE = 0.004


class CgroupLock:
    """Takes the lock, in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cgroup-lock")
        self._keeping: Future[None] | None = None
        self._until = 0.0
        # What the kernel says of this process's groups, and the file of the one that is used.
        self._known = b""
        self._file = ""
        self._of_use = True

    def prepare(self) -> None:
        """A process is about to be moved into a control group: see to it that the lock is ready. Returns at once."""
        self._until = time.monotonic() + _SECONDS
        if self._of_use and (self._keeping is None or self._keeping.done()):
            self._keeping = self._thread.submit(self._keep)

    def close(self) -> None:
        """Take it no more."""
        self._of_use = False
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _keep(self) -> None:
        self._take()
        while self._of_use and time.monotonic() < self._until:
            time.sleep(_PAUSE)
            self._take()

    def _take(self) -> None:
        try:
            fd = os.open(self._find(), os.O_WRONLY | os.O_CLOEXEC)
        except (OSError, ValueError, KeyError):
            self._of_use = False
            return
        try:
            os.write(fd, _ITSELF)
        except OSError:
            # One that has controllers below it may not be joined (cgroups(7), no internal processes): it has been asked.
            return
        finally:
            os.close(fd)

    def _find(self) -> str:
        """The file through which this process joins the group in which it is. Asked each time, as it may have been moved, and
        in few steps: what this thread does, it does while a runtime starts."""
        groups = os.open(_GROUPS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.read(groups, _GROUPS_MAX)
        finally:
            os.close(groups)
        if found != self._known:
            mounts = hierarchies()
            name = V2 if V2 in mounts else min(mounts)
            self._file = os.path.join(below(*mounts[name], memberships("self")[name]), _PROCS)
            self._known = found
        return self._file
