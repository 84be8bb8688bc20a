"""The state of a container: what its record and its task say together."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from moorage import labels
from moorage_api.containers import Container
from moorage_api.runtime import Process, Status


@dataclass(frozen=True, slots=True)
class State:
    """A container's state: `created`, `running`, `paused` or `exited`. Times are Unix nanoseconds, zero if unknown;
    `exit_status` is None where nobody saw how it ended."""

    status: str
    pid: int = 0
    exit_status: int | None = None
    exited_at: int = 0

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused")


_STATUS = {
    Status.UNKNOWN: "created",
    Status.CREATED: "created",
    Status.RUNNING: "running",
    Status.STOPPED: "exited",
    Status.PAUSED: "paused",
    Status.PAUSING: "paused",
}


def status_of(process: Process) -> str:
    """A container's status by that of its task."""
    return _STATUS[process.status]


def state_of(record: Container, process: Process | None) -> State:
    """The state that a record and its task (None: it has none) make together."""
    if process is None:
        status = record.labels.get(labels.EXIT_STATUS, "")
        if not status:
            return State("created")
        at = record.labels.get(labels.EXITED_AT, "0")
        return State("exited", 0, int(status), int(at))
    if process.status is Status.STOPPED:
        return State("exited", 0, process.exit_status, process.exited_at)
    return State(_STATUS[process.status], process.pid)


def uptime(pid: int) -> float | None:
    """Seconds since a process was started, from /proc; None where it is not to be seen."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # The second field, the command's name, may hold spaces and brackets.
            ticks = int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
