"""Tells when the kernel kills processes of a control group for want of memory.

v1: an eventfd on `memory.oom_control` (kernel, cgroup-v1/memory, section 10); v2: `memory.events`, which epoll reports as
urgent when it changes. Both count the kills, and the count decides: a notice without a kill is not told.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from moorage_shim.cgroups import Cgroup, read_file, write_file
from moorage_shim.loop import READ, URGENT, Loop


class OomWatch:
    """One container's. `killed` tells whether it ever happened; `callback` is called for each new time."""

    def __init__(self, loop: Loop, cgroup: Cgroup, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        folder = cgroup.path("memory")
        self._counter = os.path.join(folder, "memory.oom_control" if cgroup.version == 1 else "memory.events")
        self._fds: list[int] = []
        self._v1 = cgroup.version == 1
        self._count = self._read()
        self.killed = False
        if folder:
            with suppress(OSError):
                self._open(folder)
                self.wake()

    def wake(self) -> None:
        """Go on watching, after a rest."""
        if self._fds:
            self._loop.watch(self._fds[-1], READ if self._v1 else URGENT, self._on_v1 if self._v1 else self._on_v2)

    def check(self) -> bool:
        """Look now; returns `killed`. Called at an exit too, so that the news of its cause comes before it."""
        count = self._read()
        if count > self._count:
            self._count = count
            self.killed = True
            self._callback()
        return self.killed

    def close(self) -> None:
        """Stop watching."""
        for fd in self._fds:
            self._loop.unwatch(fd)
            os.close(fd)
        self._fds.clear()

    def _read(self) -> int:
        for line in read_file(self._counter).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def _open(self, folder: str) -> None:
        self._fds.append(os.open(self._counter, os.O_RDONLY | os.O_CLOEXEC))
        if self._v1:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._fds.append(event)
            write_file(os.path.join(folder, "cgroup.event_control"), f"{event} {self._fds[0]}")

    def _on_v1(self, _: int) -> None:
        """Also comes when the group is removed; then there is no file to read."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fds[-1])
        self.check()
        if not os.path.exists(self._counter):
            self.close()

    def _on_v2(self, _: int) -> None:
        """The file counts as seen once it has been read through the watched descriptor."""
        try:
            os.pread(self._fds[-1], 4096, 0)
        except OSError:
            self.close()
        self.check()
