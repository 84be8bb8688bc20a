"""What a daemon and its containers can leave behind on a host, and how to find and end it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def cgroups(parent: str) -> list[Path]:
    """The folders named `parent` in every cgroup hierarchy, v1 and v2, with all below, deepest first."""
    tops = [CGROUPS / parent, *(h / parent for h in CGROUPS.iterdir() if h.is_dir())]
    found = [Path(folder) for top in tops if top.is_dir() for folder, _, _ in os.walk(top, topdown=False)]
    return sorted(set(found), key=lambda path: -len(path.parts))


def cgroup_processes(parent: str) -> set[int]:
    """The pids in the cgroups below `parent`."""
    pids: set[int] = set()
    for folder in cgroups(parent):
        with contextlib.suppress(FileNotFoundError):
            pids.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
    return pids


def tagged_processes(tag: str) -> dict[int, str]:
    """The processes that inherited `tag` (NAME=value) in their environment: pid and command line."""
    needle = tag.encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found[int(entry.name)] = command
    return found


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below `folder`, last mounted first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    prefix = f"{folder}/"
    return [p for p in reversed(points) if p == str(folder) or p.startswith(prefix)]


def _kill(pids: Iterator[int] | set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def sweep(folder: Path, tag: str, cgroup_parent: str, seconds: float = 5.0) -> None:
    """End every process, mount and cgroup of a daemon whose roots lie in `folder`. For the end of a test, never a check."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _kill(cgroup_processes(cgroup_parent))
        _kill(set(tagged_processes(tag)))
        if not cgroup_processes(cgroup_parent) and not tagged_processes(tag):
            break
        time.sleep(0.02)
    for point in mounts_below(folder):
        _libc.umount2(point.encode(), MNT_DETACH)
    for path in cgroups(cgroup_parent):
        with contextlib.suppress(OSError):
            path.rmdir()


def leftovers(folder: Path, tag: str, cgroup_parent: str) -> list[str]:
    """A line for each process, mount and cgroup that is still there; the parent cgroup itself is its maker's to remove."""
    found = [f"process {pid}: {command}" for pid, command in tagged_processes(tag).items()]
    found += [f"process {pid} in a cgroup" for pid in cgroup_processes(cgroup_parent)]
    found += [f"mount {point}" for point in mounts_below(folder)]
    return found + [f"cgroup {path}" for path in cgroups(cgroup_parent) if path.name != cgroup_parent]
