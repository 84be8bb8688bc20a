"""What the daemon knows in memory of tasks and their processes, and how a process may change.

All of it belongs to the event loop's thread. Nothing here waits or does I/O.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage_api.errors import NotFound
from moorage_api.runtime import Exit, Process, Status, Stdio
from mooraged.runtime.bundle import Bundle, Launch

if TYPE_CHECKING:
    from mooraged.runtime.shim import Shim

# Answers and events arrive by two connections and may overtake each other: what is not in this table is late news.
_NEXT: dict[Status, frozenset[Status]] = {
    Status.UNKNOWN: frozenset(Status),
    Status.CREATED: frozenset({Status.RUNNING, Status.STOPPED}),
    Status.RUNNING: frozenset({Status.PAUSING, Status.PAUSED, Status.STOPPED}),
    Status.PAUSING: frozenset({Status.RUNNING, Status.PAUSED, Status.STOPPED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.STOPPED}),
    Status.STOPPED: frozenset(),
}


class ProcessState:
    """One process. `exit` is set once, together with the status STOPPED, and wakes all who wait."""

    __slots__ = ("_exited", "announced", "container_id", "exec_id", "exit", "pid", "status", "stdio")

    def __init__(self, container_id: str, exec_id: str, stdio: Stdio, pid: int = 0, status: Status = Status.CREATED):
        self.container_id = container_id
        self.exec_id = exec_id
        self.stdio = stdio
        self.pid = pid
        self.status = status
        self.exit: Exit | None = None
        self.announced = False
        self._exited = asyncio.Event()

    def advance(self, status: Status) -> bool:
        """Move on to `status` if the table allows it; for STOPPED use `finish`."""
        if status is Status.STOPPED or status not in _NEXT[self.status]:
            return False
        self.status = status
        return True

    def started(self, pid: int) -> None:
        """It runs as `pid`; no news when it has exited already."""
        self.pid = pid or self.pid
        self.advance(Status.RUNNING)

    def finish(self, exit: Exit) -> bool:
        """It has ended; False when that was known, and then the first report stands."""
        if self.exit is not None:
            return False
        self.exit = Exit(exit.status, exit.at, exit.pid or self.pid)
        self.status = Status.STOPPED
        self._exited.set()
        return True

    async def wait(self) -> Exit:
        """Return when `finish` has been called."""
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    @property
    def untold(self) -> bool:
        """Whether its exit is an event that somebody expects: that of an exec which was never started is none."""
        return not self.announced and not (self.exec_id and not self.pid)

    def view(self) -> Process:
        """The process as the contract tells it."""
        exit = self.exit
        return Process(
            self.container_id,
            self.exec_id,
            self.pid,
            self.status,
            self.stdio,
            exit.status if exit else 0,
            exit.at if exit else 0,
        )


@dataclass(eq=False, slots=True)
class Task:
    """A container's task. `shim` is None when its shim is gone; `ready` is false until its creation has succeeded.

    `released` tells that its shim has deleted it and has ended, and that the client has not deleted it yet. `leaving`
    has the deletions of execs that the shim has been asked for and that the client need not wait for.
    """

    namespace: str
    id: str
    bundle: Bundle
    launch: Launch
    init: ProcessState
    shim: Shim | None = None
    ready: bool = False
    released: bool = False
    created_at: int = 0
    execs: dict[str, ProcessState] = field(default_factory=dict)
    leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def seen_off(self, exec_id: str) -> None:
        """Wait until no deletion of an exec of that name is under way."""
        if exec_id in self.leaving:
            await asyncio.wait({self.leaving[exec_id]})

    def process(self, exec_id: str) -> ProcessState:
        """The first process for an empty `exec_id`. `NotFound`."""
        if not exec_id:
            return self.init
        found = self.execs.get(exec_id)
        if found is None:
            raise NotFound(f"process {exec_id} of task {self.id} not found")
        return found

    def processes(self) -> list[ProcessState]:
        return [self.init, *self.execs.values()]
