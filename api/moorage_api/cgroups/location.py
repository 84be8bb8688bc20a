"""Where the control groups of a process are.

Three layouts exist: v1 (a hierarchy a controller), v2 (one hierarchy), and hybrid, which is v1 with a v2 hierarchy
beside it that has no controllers. A group is known by the folders of it that exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from moorage_api.cgroups.flatfiles import read_file
from moorage_api.linux.mount import mountinfo

_TYPES = frozenset({"cgroup", "cgroup2"})
V2 = ""
"""The name that the hierarchy of version 2 has among the controllers."""


@dataclass(frozen=True, slots=True)
class Group:
    """The folders of one control group: by controller for v1, under the empty name for v2."""

    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """1 or 2, by where the controllers are."""
        return 1 if any(name and name != "systemd" for name in self.folders) else 2

    def path(self, controller: str) -> str:
        """The folder with a controller's files; empty where there is none."""
        return self.folders.get(controller if self.version == 1 else V2, "")

    def pids(self) -> list[int]:
        """Every process in it and in the groups below it, in ascending order."""
        for folder in self._candidates():
            found: set[int] = set()
            for path, _, files in os.walk(folder):
                if "cgroup.procs" in files:
                    found.update(int(line) for line in read_file(os.path.join(path, "cgroup.procs")).split())
            return sorted(found)
        return []

    def _candidates(self) -> Iterator[str]:
        """Folders that list the processes, the surest controller first."""
        for name in ("pids", "freezer", "memory", "devices", "cpu", V2, "systemd"):
            folder = self.folders.get(name, "")
            if folder and os.path.isdir(folder):
                yield folder


def locate(pid: int) -> Group:
    """The control group of a process, without the hierarchies in which it shares the caller's own group.

    Empty when the process is gone. What is not the process's alone must neither be counted nor ended as its own.
    """
    mounts = hierarchies()
    own = memberships("self")
    folders = {
        name: below(*mounts[name], path)
        for name, path in memberships(str(pid)).items()
        if name in mounts and path != "/" and path != own.get(name)
    }
    return Group(folders)


def at(path: str) -> Group:
    """The group of that path (`/kubepods/pod1`) in every hierarchy that has it."""
    folders = {name: below(target, root, path) for name, (target, root) in hierarchies().items()}
    return Group({name: folder for name, folder in folders.items() if os.path.isdir(folder)})


def slice_path(name: str) -> str:
    """The path of a systemd slice: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5))."""
    parts = name.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))


def below(target: str, root: str, path: str) -> str:
    """The folder of a group: its path as the kernel gives it, less what the mount already starts from."""
    inside = path.removeprefix(root) if root != "/" else path
    return os.path.join(target, inside.lstrip("/"))


def hierarchies() -> dict[str, tuple[str, str]]:
    """Where each hierarchy is mounted, and which group of it is the mount's root."""
    mounts = {}
    for entry in mountinfo(types=_TYPES):
        if entry.type == "cgroup2":
            mounts[V2] = (entry.target, entry.root)
        else:
            for option in entry.super_options:
                mounts[option.removeprefix("name=")] = (entry.target, entry.root)
    return mounts


def memberships(pid: str) -> dict[str, str]:
    """The lines of `/proc/PID/cgroup`, by controller."""
    found = {}
    for line in read_file(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller.removeprefix("name=")] = path
    return found
