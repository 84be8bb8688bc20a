"""What the processes of a container hold open, and what they may at most."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from moorage_api.cgroups.flatfiles import read_file

UNLIMITED = (1 << 64) - 1
"""What a limit that is none is shown as: -1, as the protocol's unsigned numbers hold it."""


@dataclass(frozen=True, slots=True)
class Processes:
    """`ulimits` are the soft ones of the first process, by name (`max_open_files`)."""

    count: int = 0
    fds: int = 0
    sockets: int = 0
    ulimits: dict[str, int] = field(default_factory=dict)


def read(pids: Iterable[int], init: int) -> Processes:
    """Count what is open in `pids`. A process that ends meanwhile counts for what was seen of it."""
    count = fds = sockets = 0
    for pid in pids:
        count += 1
        for target in _open(pid):
            fds += 1
            sockets += target.startswith("socket:")
    return Processes(count, fds, sockets, limits(read_file(f"/proc/{init}/limits")))


def limits(text: str) -> dict[str, int]:
    """The soft limits of `/proc/PID/limits` (proc_pid_limits(5)): `Max open files  1024  4096  files`."""
    found = {}
    lines = text.splitlines()
    column = lines[0].find("Soft Limit") if lines else -1
    for line in lines[1:] if column > 0 else ():
        name, value = line[:column].strip().lower().replace(" ", "_"), line[column:].split()[0]
        found[name] = int(value) if value.isdigit() else UNLIMITED
    return found


def _open(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    folder = f"/proc/{pid}/fd"
    found = []
    try:
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(f"{folder}/{name}"))
            except OSError:
                continue
    except OSError:
        return found
    return found
