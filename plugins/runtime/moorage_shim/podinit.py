"""The init of a pod's PID namespace: a child of the keeper that does nothing but reap (`spawning`, pid_namespaces(7))."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from moorage_shim.cgroups import read_file
from moorage_shim.processes import kill_quietly
from moorage_shim.spawning import POD_INIT

_FILE = "pod.pid"


def write_init(path: str, pid: int) -> None:
    """Note in a pod's folder which process its init is, for who must end it when the shim is dead."""
    with open(os.path.join(path, _FILE), "w", encoding="ascii") as file:
        file.write(str(pid))


def end_init(path: str) -> None:
    """Kill the init of the pod in that folder, and with it all in its namespace; nothing where there is none.

    Its name is compared: the pid may be another process's by now.
    """
    file = os.path.join(path, _FILE)
    pid = read_file(file)
    if pid and read_file(f"/proc/{pid}/comm").strip() == POD_INIT:
        kill_quietly(int(pid), signal.SIGKILL)
    with suppress(FileNotFoundError):
        os.unlink(file)
