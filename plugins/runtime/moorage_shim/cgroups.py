"""Control groups: where a process's are, who is in them, and how to end them all (cgroups(7)).

Three layouts exist: v1 (a hierarchy a controller), v2 (one hierarchy), and hybrid, which is v1 with a v2 hierarchy
beside it that has no controllers. A container's group is known by the folders of it that exist.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from moorage_api.linux.mount import mountinfo
from moorage_shim.processes import kill_quietly

ROOT = "/sys/fs/cgroup"
UNIFIED = "/sys/fs/cgroup/unified"

_V2 = ""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The folders of one control group: by controller for v1, under the empty name for v2."""

    folders: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """1 or 2, by where the controllers are."""
        return 1 if any(name and name != "systemd" for name in self.folders) else 2

    def path(self, controller: str) -> str:
        """The folder with a controller's files; empty where there is none."""
        return self.folders.get(controller if self.version == 1 else _V2, "")

    def pids(self) -> list[int]:
        """Every process in it and in the groups below it, in ascending order."""
        for folder in self._candidates():
            found: set[int] = set()
            for path, _, files in os.walk(folder):
                if "cgroup.procs" in files:
                    found.update(_read_pids(os.path.join(path, "cgroup.procs")))
            return sorted(found)
        return []

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

    def _candidates(self) -> Iterator[str]:
        """Folders that list the processes, the surest controller first."""
        for name in ("pids", "freezer", "memory", "devices", "cpu", _V2, "systemd"):
            folder = self.folders.get(name, "")
            if folder and os.path.isdir(folder):
                yield folder


def of_process(pid: int) -> Cgroup:
    """The control group of a process, without the hierarchies in which it shares the shim's own group.

    Empty when the process is gone. What is not the container's alone must be neither killed nor removed with it.
    """
    mounts = _mounts()
    own = _memberships("self")
    folders = {
        name: _below(*mounts[name], path)
        for name, path in _memberships(str(pid)).items()
        if name in mounts and path != "/" and path != own.get(name)
    }
    return Cgroup(folders)


def is_hybrid() -> bool:
    """Whether a v2 hierarchy without controllers lies beside v1's."""
    return os.path.exists(f"{UNIFIED}/cgroup.procs")


def read_file(path: str) -> str:
    """A small file of the kernel's; empty where it is not there."""
    with suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""


def write_file(path: str, text: str) -> None:
    """One write to a file of the kernel's."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _mounts() -> dict[str, tuple[str, str]]:
    """Where each hierarchy is mounted, and which group of it is the mount's root."""
    mounts = {}
    for entry in mountinfo():
        if entry.type == "cgroup2":
            mounts[_V2] = (entry.target, entry.root)
        elif entry.type == "cgroup":
            for option in entry.super_options:
                mounts[option.removeprefix("name=")] = (entry.target, entry.root)
    return mounts


def _memberships(pid: str) -> dict[str, str]:
    """The lines of `/proc/PID/cgroup`, by controller."""
    found = {}
    for line in read_file(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller.removeprefix("name=")] = path
    return found


def _below(target: str, root: str, path: str) -> str:
    """The folder of a group: its path as the kernel gives it, less what the mount already starts from."""
    inside = path.removeprefix(root) if root != "/" else path
    return os.path.join(target, inside.lstrip("/"))


def _read_pids(path: str) -> list[int]:
    return [int(line) for line in read_file(path).split()]
