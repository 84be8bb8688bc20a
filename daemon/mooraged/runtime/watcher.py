"""How the daemon learns of what happens to processes: answers to Wait, and events that shims forward."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError, Message

from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.events import Envelope, EventBus
from moorage_api.runtime import Exit, Status
from moorage_api.wire import events_types_pb2 as events
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert
from mooraged.runtime.announcer import Announcer
from mooraged.runtime.ledger import Ledger
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.shim import Shim
from mooraged.runtime.stubs import BoundRpc
from mooraged.runtime.ttrpc_client import consumed

log = logging.getLogger(__name__)
Wait = BoundRpc[pb.WaitRequest, pb.WaitResponse]


class Watcher:
    """Updates the ledger's processes; forwards events to the bus after that."""

    def __init__(self, ledger: Ledger, announcer: Announcer, bus: EventBus) -> None:
        self._ledger = ledger
        self._announcer = announcer
        self._bus = bus
        self._topics: dict[str, tuple[type[Message], Callable[[str, Message], bool]]] = {
            "/tasks/exit": (events.TaskExit, self._on_exit),
            "/tasks/start": (events.TaskStart, self._on_start),
            "/tasks/exec-started": (events.TaskExecStarted, self._on_exec_started),
            "/tasks/delete": (events.TaskDelete, self._on_delete),
            "/tasks/paused": (events.TaskPaused, self._on_paused),
            "/tasks/resumed": (events.TaskResumed, self._on_resumed),
        }

    def watch(self, task: Task, process: ProcessState) -> None:
        """Ask the shim to tell when the process exits. When the shim goes first, its death says what there is to say."""
        if task.shim is not None:
            self.heed(task, process, task.shim.task.Wait, ask(task.shim, process))

    def heed(self, task: Task, process: ProcessState, wait: Wait, answer: asyncio.Future[bytes]) -> None:
        """Take the answer to a call of `Wait` that has been sent (`ask`)."""

        def answered(answer: asyncio.Future[bytes]) -> None:
            if answer.cancelled() or consumed(answer) is not None:
                return
            try:
                ended = wait.parse(answer.result())
            except MoorageError as error:
                log.error("task %s: %s", task.id, error.message)
                return
            self.exited(task, process, Exit(ended.exit_status, convert.nanoseconds(ended.exited_at)))

        answer.add_done_callback(answered)

    def exited(self, task: Task, process: ProcessState, exit: Exit) -> None:
        """The process has ended, says somebody who is not its shim's event."""
        if process.finish(exit):
            self._announcer.exited(task, process)

    def forwarded(self, envelope: Envelope) -> None:
        """A shim forwards an event. `InvalidArgument` for one that can't be read or told."""
        known = self._topics.get(envelope.topic)
        if known is not None:
            kind, handle = known
            try:
                event = kind.FromString(envelope.event.value)
            except DecodeError as error:
                raise InvalidArgument(f"event {envelope.topic} is no {kind.DESCRIPTOR.full_name}") from error
            if not handle(envelope.namespace, event):
                return
        self._bus.forward(envelope)

    def _on_exit(self, namespace: str, event: Message) -> bool:
        assert isinstance(event, events.TaskExit)
        task = self._ledger.find(namespace, event.container_id)
        exec_id = "" if event.id == event.container_id else event.id
        key = (namespace, event.container_id, exec_id or event.container_id)
        process = _process(task, exec_id)
        # An awaited event is of a process whose exit is known; a new one may have taken its name since.
        if process is not None and not self._announcer.awaits(key):
            process.finish(Exit(event.exit_status, convert.nanoseconds(event.exited_at), event.pid))
        return self._announcer.forwarded(task, process, key)

    def _on_start(self, namespace: str, event: Message) -> bool:
        assert isinstance(event, events.TaskStart)
        process = _process(self._ledger.find(namespace, event.container_id), "")
        if process is not None:
            process.started(event.pid)
        return True

    def _on_exec_started(self, namespace: str, event: Message) -> bool:
        assert isinstance(event, events.TaskExecStarted)
        process = _process(self._ledger.find(namespace, event.container_id), event.exec_id)
        # Events come in order: with an exit still to be told, this is of the process that had the name before.
        if process is not None and not self._announcer.awaits((namespace, event.container_id, event.exec_id)):
            process.started(event.pid)
        return True

    def _on_delete(self, namespace: str, event: Message) -> bool:
        """A task that its shim had to give up is told as deleted when the client deletes it."""
        assert isinstance(event, events.TaskDelete)
        task = self._ledger.find(namespace, event.container_id)
        return task is None or not task.released

    def _on_paused(self, namespace: str, event: Message) -> bool:
        assert isinstance(event, events.TaskPaused)
        return self._advance(namespace, event.container_id, Status.PAUSED)

    def _on_resumed(self, namespace: str, event: Message) -> bool:
        assert isinstance(event, events.TaskResumed)
        return self._advance(namespace, event.container_id, Status.RUNNING)

    def _advance(self, namespace: str, container_id: str, status: Status) -> bool:
        process = _process(self._ledger.find(namespace, container_id), "")
        if process is not None:
            process.advance(status)
        return True


def ask(shim: Shim, process: ProcessState) -> asyncio.Future[bytes]:
    """Ask the shim to tell when the process exits; for `heed`."""
    return shim.task.Wait.submit(pb.WaitRequest(id=process.container_id, exec_id=process.exec_id))


def _process(task: Task | None, exec_id: str) -> ProcessState | None:
    if task is None:
        return None
    return task.execs.get(exec_id) if exec_id else task.init
