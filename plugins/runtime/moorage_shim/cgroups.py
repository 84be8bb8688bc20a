"""Control groups of containers: how to freeze them, and to end all that is in them (cgroups(7))."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from moorage_api.cgroups import Group, locate
from moorage_api.cgroups.flatfiles import read_file
from moorage_shim.processes import kill_quietly, parent_of

ROOT = "/sys/fs/cgroup"
UNIFIED = "/sys/fs/cgroup/unified"

__all__ = ["ROOT", "UNIFIED", "Cgroup", "is_hybrid", "of_process", "read_file", "write_file"]


@dataclass(frozen=True, slots=True)
class Cgroup(Group):
    """A group that the shim may end."""

    def kill(self) -> None:
        """SIGKILL every process, frozen meanwhile so that none can fork away; they end soon after this returns."""
        if self.version == 2:
            with suppress(FileNotFoundError):
                write_file(os.path.join(self.path(""), "cgroup.kill"), "1")
                return
        self.freeze(True)
        seen: set[int] = set()
        while fresh := set(self.pids()) - seen:
            for pid in fresh:
                kill_quietly(pid, signal.SIGKILL)
            seen |= fresh
        self.freeze(False)

    def kill_family(self, pid: int) -> None:
        """SIGKILL a process of the group and all that descend from it, stopped before so that none can fork away. What
        had left the family before is not found."""
        family = [pid]
        kill_quietly(pid, signal.SIGSTOP)
        while fresh := [each for each in self.pids() if each not in family and parent_of(each) in family]:
            for each in fresh:
                kill_quietly(each, signal.SIGSTOP)
            family += fresh
        for each in family:
            kill_quietly(each, signal.SIGKILL)

    def freeze(self, frozen: bool) -> None:
        """Freeze or thaw; nothing where the freezer is missing."""
        if self.version == 2:
            path, word = os.path.join(self.path(""), "cgroup.freeze"), str(int(frozen))
        else:
            path, word = os.path.join(self.path("freezer"), "freezer.state"), "FROZEN" if frozen else "THAWED"
        with suppress(FileNotFoundError):
            write_file(path, word)

    def remove(self) -> None:
        """Remove its folders, the innermost first; those still in use stay."""
        for folder in set(self.folders.values()):
            for path, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    os.rmdir(path)


def of_process(pid: int) -> Cgroup:
    """The control group of a process, as far as it is the container's alone (`locate`)."""
    return Cgroup(locate(pid).folders)


def is_hybrid() -> bool:
    """Whether a v2 hierarchy without controllers lies beside v1's."""
    return os.path.exists(f"{UNIFIED}/cgroup.procs")


def write_file(path: str, text: str) -> None:
    """One write to a file of the kernel's."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
