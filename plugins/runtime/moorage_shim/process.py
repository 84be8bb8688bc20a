"""A process of a container, and what may be done to it in which state."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.runtime import Status, Stdio
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Ended, parent_of

if TYPE_CHECKING:
    from moorage_shim.stdio.streams import Streams

# What each state allows; anything else is a failed precondition.
_ALLOWED: dict[Status, frozenset[str]] = {
    Status.CREATED: frozenset({"start", "delete", "kill", "exec", "update", "resize"}),
    Status.RUNNING: frozenset({"kill", "exec", "update", "resize", "pause", "checkpoint"}),
    Status.PAUSING: frozenset({"kill", "resize"}),
    Status.PAUSED: frozenset({"kill", "update", "resize", "resume", "checkpoint"}),
    Status.STOPPED: frozenset({"delete"}),
}


class Process:
    """One process: the container's first (`exec_id` empty), or one that was added."""

    def __init__(self, loop: Loop, stdio: Stdio, exec_id: str = "") -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.status = Status.CREATED
        self.pid = 0
        self.streams: Streams | None = None
        # The kernel's end of it, as soon as it is known; and the report, after output and record are safe.
        self.ended: Ended | None = None
        self.exited: Future[Ended] = Future(loop, dormant=True)
        # The exit is not told before the start has been: clients rely on the order of the events.
        self.announced: Future[None] = Future(loop)

    def check(self, action: str) -> None:
        """`FailedPrecondition` when the state does not allow it, `NotFound` for a kill that comes too late."""
        if action == "kill":
            if self.ended is not None or self.status is Status.STOPPED:
                raise NotFound("process already finished")
            if not self.pid:
                raise FailedPrecondition("process not created")
        if action not in _ALLOWED[self.status]:
            subject = "process" if action in ("start", "delete", "kill") else "container"
            raise FailedPrecondition(f"cannot {action} a {self.status.name.lower()} {subject}")

    def signal(self, number: int, parent: int) -> None:
        """Send a signal. `parent` is whose child the process is: a pid that has been given away again is not hit."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError as error:
            raise NotFound("process already finished") from error
        try:
            if parent_of(self.pid) != parent:
                raise NotFound("process already finished")
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError as error:
            raise NotFound("process already finished") from error
        except OSError as error:
            raise FailedPrecondition(f"signal {number}: {error.strerror}") from error
        finally:
            os.close(fd)

    async def claimed(self) -> None:
        """Wait, not for long, until its output has been come for."""
        if self.streams is not None:
            await self.streams.claimed()

    async def release(self) -> None:
        """Give up its streams."""
        streams, self.streams = self.streams, None
        if streams is not None:
            await streams.close()
