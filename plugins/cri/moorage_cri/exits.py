"""How the plugin learns that containers end, and why: the task events of its namespace."""

from __future__ import annotations

import asyncio
import logging

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, ResourceExhausted
from moorage_api.events import Envelope
from moorage_api.runtime import Status
from moorage_api.wire import events_types_pb2 as events
from moorage_cri import events as feed
from moorage_cri.container import journal, stopping
from moorage_cri.container.ending import ended
from moorage_cri.context import NAMESPACE, Cri
from moorage_cri.model import OOM_KILLED, Container

logger = logging.getLogger(__name__)

_EXIT = "/tasks/exit"
_OOM = "/tasks/oom"
FILTERS = [f'namespace=={NAMESPACE},topic=="{topic}"' for topic in (_EXIT, _OOM)]


class Exits:
    """Follows the events of tasks. What happened while nobody listened is asked of the task manager."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def follow(self) -> None:
        """Until cancelled. A reader that fell behind starts anew, and asks for what it missed."""
        while True:
            stream = self._cri.core.events.subscribe(FILTERS)
            self.catch_up()
            try:
                async for envelope in stream:
                    self._handle(envelope)
            except ResourceExhausted:
                logger.warning("too many events at once: asking for the state of all tasks")

    def catch_up(self) -> None:
        """Compare each container that is held for running with what the task manager knows."""
        for container in self._cri.containers:
            if not container.running:
                continue
            try:
                process = self._cri.k8s.tasks.get(container.id)
            except NotFound:
                self._lost(container)
                continue
            if process.status is Status.STOPPED:
                self._exited(container, process.exit_status, process.exited_at)

    def _handle(self, envelope: Envelope) -> None:
        if envelope.topic == _OOM:
            oom = events.TaskOOM.FromString(envelope.event.value)
            if oom.container_id in self._cri.containers:
                self._ran_out(self._cri.containers.get(oom.container_id))
            return
        exit = events.TaskExit.FromString(envelope.event.value)
        # Other processes of a container have ids of their own.
        if exit.id == exit.container_id and exit.container_id in self._cri.containers:
            self._exited(self._cri.containers.get(exit.container_id), exit.exit_status, exit.exited_at.ToNanoseconds())

    def _ran_out(self, container: Container) -> None:
        container.run.reason = OOM_KILLED
        if container.run.finished_at:
            self._record(container)

    def _exited(self, container: Container, status: int, at: int) -> None:
        """The state changes at once; it goes to disk, and the task is deleted, in the background."""
        run = container.run
        if run.finished_at:
            return
        early = not run.started_at  # The news came before the answer to the start.
        run.started_at = run.started_at or at
        run.finished_at, run.exit_code, run.pid = at, status, 0
        container.stopped.set()
        if early:
            feed.tell(self._cri, container, feed.STARTED)
        ended(self._cri, container)
        self._record(container)

    def _lost(self, container: Container) -> None:
        stopping.lost(container)
        ended(self._cri, container)
        self._record(container)

    def _record(self, container: Container) -> None:
        burial = self._bury(container, container.aftermath)
        container.aftermath = self._cri.background.spawn(f"end of container {container.id}", burial)

    async def _bury(self, container: Container, before: asyncio.Task[None] | None) -> None:
        """Only what is on disk may be forgotten by the task manager. `before` has written what was known before."""
        cri = self._cri
        if before is not None:
            await asyncio.wait([before])
        await cri.run(journal.save, cri.container_folder(container.id), container.run, sync=True)
        try:
            await cri.k8s.tasks.delete(container.id)
        except (NotFound, FailedPrecondition):
            return
        except MoorageError as error:
            logger.warning("the task of container %s is deleted with the container: %s", container.id, error)
