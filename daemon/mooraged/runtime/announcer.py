"""Exit events, once for each process.

A shim forwards `/tasks/exit` itself. The daemon may learn of the exit earlier (the answer to Wait), or from nobody (a
shim that died, or that forwarded while the daemon was away). So an exit that is known and not forwarded within a grace
is published on the shim's behalf, and what the shim forwards afterwards is dropped. The shim's own event is preferred
because it comes in order, behind the process's start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from moorage_api.errors import MoorageError
from moorage_api.events import EventBus
from moorage_api.wire.events_types_pb2 import TaskDelete, TaskExit
from mooraged.runtime import convert
from mooraged.runtime.bundle import Record
from mooraged.runtime.processes import ProcessState, Task

log = logging.getLogger(__name__)
GRACE_SECONDS = 2.0
_REMEMBERED = 1024

ProcessKey = tuple[str, str, str]
"""Namespace, container id, and exec id, or the container id again for the first process: as exit events have them."""


class Announcer:
    """Sees to it that each exit is told once, also across a restart of the daemon (by the bundle's record)."""

    def __init__(self, bus: EventBus, grace: float = GRACE_SECONDS) -> None:
        self._bus = bus
        self._grace = grace
        self._pending: dict[ProcessKey, tuple[asyncio.TimerHandle, Task, ProcessState]] = {}
        self._published: OrderedDict[ProcessKey, None] = OrderedDict()

    def expect(self, namespace: str, container_id: str, exec_id: str) -> None:
        """A new process of that name begins: what was told of an earlier one no longer counts."""
        self._published.pop((namespace, container_id, exec_id or container_id), None)

    def exited(self, task: Task, process: ProcessState) -> None:
        """The exit is known: publish it unless the shim forwards it within the grace."""
        key = _key(task, process)
        if not process.untold or key in self._pending:
            return
        timer = asyncio.get_running_loop().call_later(self._grace, self.announce, task, process)
        self._pending[key] = (timer, task, process)

    def announce(self, task: Task, process: ProcessState) -> None:
        """Publish the exit now, on the shim's behalf, unless it has been told."""
        key = _key(task, process)
        self._settle(key)
        if not process.untold or process.exit is None:
            return
        process.announced = True
        self._published[key] = None
        while len(self._published) > _REMEMBERED:
            self._published.popitem(last=False)
        exit = process.exit
        event = TaskExit(
            container_id=task.id,
            id=process.exec_id or task.id,
            pid=exit.pid,
            exit_status=exit.status,
            exited_at=convert.timestamp(exit.at),
        )
        self._publish(task, "/tasks/exit", event)
        remember(task, process)

    def awaits(self, key: ProcessKey) -> bool:
        """Whether an exit of that name is known and its event has not been told."""
        return key in self._pending

    def forwarded(self, task: Task | None, process: ProcessState | None, key: ProcessKey) -> bool:
        """The shim forwards the exit of a process, or of one deleted already; False when it has been told."""
        pending = self._settle(key)
        if pending is not None:
            task, process = pending
        if process is None:
            return key not in self._published
        if process.announced:
            return False
        process.announced = True
        if task is not None:
            remember(task, process)
        return True

    def deleted(self, task: Task) -> None:
        """Publish the deletion of a task whose shim is gone."""
        exit = task.init.exit
        if exit is None:
            return
        event = TaskDelete(
            container_id=task.id, pid=exit.pid, exit_status=exit.status, exited_at=convert.timestamp(exit.at)
        )
        self._publish(task, "/tasks/delete", event)

    def close(self) -> None:
        """Publish nothing more; what was not told will be at the next start."""
        for timer, _, _ in self._pending.values():
            timer.cancel()
        self._pending.clear()

    def _settle(self, key: ProcessKey) -> tuple[Task, ProcessState] | None:
        pending = self._pending.pop(key, None)
        if pending is None:
            return None
        pending[0].cancel()
        return pending[1:]

    def _publish(self, task: Task, topic: str, event: TaskExit | TaskDelete) -> None:
        try:
            self._bus.publish(task.namespace, topic, event)
        except MoorageError as error:
            log.error("event %s of task %s was not published: %s", topic, task.id, error.message)


def remember(task: Task, process: ProcessState) -> None:
    """Write the exit of a first process into the bundle, so that the next start neither loses nor repeats it."""
    exit = task.init.exit
    if process.exec_id or exit is None or not task.ready:
        return
    record = Record(task.init.pid, task.created_at, task.init.stdio, True, exit.status, exit.at)
    try:
        task.bundle.write_record(record)
    except FileNotFoundError:
        return  # deleted meanwhile: nobody will ask for it any more
    except OSError as error:
        log.error("exit of task %s could not be recorded: %s", task.id, error)


def _key(task: Task, process: ProcessState) -> ProcessKey:
    return task.namespace, task.id, process.exec_id or task.id
