"""The restart monitor: what becomes of a container when it has ended and no client takes care of it.

It is started again where its restart labels say so, removed where it was to be (`--rm`), and else its task is deleted
and its end written down, so that its shim, its address and its ports are free. Labels on the record say which; so a
restart of the daemon, or of the machine, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from moorage_api import native
from moorage_api.containers import Container
from moorage_api.core import Core, Namespaced
from moorage_api.errors import (
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moorage_api.events import Envelope
from moorage_api.oci import spec as oci
from moorage_api.runtime import Process, Status, Stdio
from moorage_api.wire import events_types_pb2

logger = logging.getLogger(__name__)

_TOPICS = ['topic=="/tasks/exit"', 'topic=="/tasks/oom"']
_PAUSE_FIRST, _PAUSE_LONGEST = 0.1, 60.0
# One that ran so long (seconds) has recovered: its next restart comes at once again.
_WELL_AFTER = 10.0
# Seconds that a client which is attached has for itself: to read what the container wrote last, and to delete the task
# or the container as it was asked to; and only to read, where it is to be started again.
_ATTACHED_GRACE, _ATTACHED_PAUSE = 3.0, 0.5


class Monitor:
    """Watches the exits of all namespaces. One worker for each container that has something due."""

    def __init__(self, core: Core, logs: Path, volumes: Path) -> None:
        self._core = core
        self._logs = logs
        self._volumes = volumes
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[tuple[str, str]] = set()
        self._pauses: dict[tuple[str, str], tuple[float, float]] = {}

    async def start(self) -> None:
        """Begin to watch, and take up what ended while there was no daemon."""
        self._spawn(self._watch(), "restart monitor")
        self._spawn(self._scan(), "restart scan")

    async def stop(self) -> None:
        """End; what is not done is taken up at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._core.events.subscribe(_TOPICS)) as events:
                    async for envelope in events:
                        await self._hear(envelope)
            except ResourceExhausted:
                # Too many exits at once for the queue: look at everything.
                await self._scan()
            except Unavailable:
                return

    async def _hear(self, envelope: Envelope) -> None:
        if envelope.topic == "/tasks/oom":
            oom = events_types_pb2.TaskOOM.FromString(envelope.event.value)
            with suppress(NotFound):
                record = await self._core.run(
                    self._core.namespaced(envelope.namespace).containers.get, oom.container_id
                )
                await self._core.run(native.note_oom, record.labels, record.id)
            return
        event = events_types_pb2.TaskExit.FromString(envelope.event.value)
        if event.id == event.container_id:
            self._look(envelope.namespace, event.container_id)

    async def _scan(self) -> None:
        for namespace in await self._core.run(self._core.namespaces.list):
            bound = self._core.namespaced(namespace)
            for record in await self._core.run(bound.containers.list):
                if native.NAME in record.labels or native.RESTART_STATUS in record.labels:
                    self._look(namespace, record.id)

    def _look(self, namespace: str, id: str) -> None:
        key = namespace, id
        if key not in self._busy:
            self._busy.add(key)
            self._spawn(self._settle(namespace, id), f"end of {namespace}/{id}")

    async def _settle(self, namespace: str, id: str) -> None:
        bound = self._core.namespaced(namespace)
        try:
            pause = await self._step(bound, id)
            while pause is not None:
                await asyncio.sleep(pause)
                pause = await self._step(bound, id)
        except NotFound:
            # Removed by its client: nothing is due any more.
            self._pauses.pop((namespace, id), None)
        except MoorageError as error:
            logger.warning("container %s/%s ended and is left as it is: %s", namespace, id, error)
        finally:
            self._busy.discard((namespace, id))

    async def _step(self, bound: Namespaced, id: str) -> float | None:
        """Do what is due; returns the seconds after which to look again, None when nothing is due any more."""
        record = await self._core.run(bound.containers.get, id)
        process = _process(bound, id)
        if process is not None and process.status is not Status.STOPPED:
            return None
        status = process.exit_status if process else int(record.labels.get(native.EXIT_STATUS, "0") or 0)
        attended = native.NAME in record.labels and process is not None and _is_attended(record, process)
        if native.wants_restart(record.labels, status):
            return _ATTACHED_PAUSE if attended else await self._restart(bound, record, process)
        if attended:
            return _ATTACHED_GRACE
        if process is None or native.NAME not in record.labels:
            return None
        if record.labels.get(native.AUTO_REMOVE) == "true":
            await self._remove(bound, record)
        else:
            await self._finish(bound, record, process)
        return None

    async def _restart(self, bound: Namespaced, record: Container, process: Process | None) -> float | None:
        """Start it again once its pause is over; an attempt that fails is made again after a longer one."""
        key = bound.namespace, record.id
        due, pause = self._pauses.get(key, (0.0, 0.0))
        now = time.monotonic()
        if not due or (due < now and now - due > _WELL_AFTER + pause):
            pause = _PAUSE_FIRST
            self._pauses[key] = now + pause, pause
            return pause
        if due > now:
            return due - now
        longer = min(pause * 2, _PAUSE_LONGEST)
        self._pauses[key] = now + longer, longer
        try:
            await self._run(bound, record, process)
        except (NotFound, FailedPrecondition):
            # Removed, or started by a client meanwhile; the next look tells.
            return longer
        except MoorageError as error:
            logger.warning("container %s/%s does not start, next try in %g s: %s", *key, longer, error)
            return longer
        # It may have ended again before this was noted: its exit then told nobody.
        return _PAUSE_FIRST

    async def _run(self, bound: Namespaced, record: Container, process: Process | None) -> None:
        count = {native.RESTART_COUNT: str(native.restart_count(record.labels) + 1)}
        record = await self._label(bound, record, count)
        if process is not None:
            await bound.tasks.delete(record.id)
        record = await self._in_network(bound, record)
        try:
            terminal = bool(oci.decode(record.spec)["process"].get("terminal"))
        except (KeyError, TypeError) as error:
            raise InvalidArgument("its specification has no process") from error
        stdio = native.stdio(record.labels, record.id, runtime=record.runtime.name, terminal=terminal)
        if native.NAME not in record.labels:
            log = record.labels.get(native.RESTART_LOG, "")
            stdio = Stdio("", log, "" if terminal else log, terminal)
        await self._core.run(native.note_start, record.labels, record.id)
        await bound.tasks.create(record.id, stdio=stdio)
        await bound.tasks.start(record.id)
        logger.info("started container %s/%s again", bound.namespace, record.id)

    async def _in_network(self, bound: Namespaced, record: Container) -> Container:
        """Let one that joins another container's network join the one that this has now. `FailedPrecondition`."""
        other = record.labels.get(native.NETWORK_OF, "")
        if not other:
            return record
        process = _process(bound, other)
        if process is None or process.status is Status.STOPPED:
            raise FailedPrecondition(f"container {other[:12]}, whose network it joins, does not run")
        joined = native.in_network_of(record, process.pid)
        return await self._core.run(bound.containers.update, joined, ["spec"])

    async def _finish(self, bound: Namespaced, record: Container, process: Process) -> None:
        """Write down how it ended, then delete its task: who asks in between sees the same twice."""
        await self._label(
            bound, record, {native.EXIT_STATUS: str(process.exit_status), native.EXITED_AT: str(process.exited_at)}
        )
        await bound.tasks.delete(record.id)

    async def _label(self, bound: Namespaced, record: Container, labels: dict[str, str]) -> Container:
        changed = replace(record, labels={**record.labels, **labels})
        return await self._core.run(bound.containers.update, changed, [f"labels.{key}" for key in labels])

    async def _remove(self, bound: Namespaced, record: Container) -> None:
        with suppress(NotFound):
            await bound.tasks.delete(record.id)
        await self._core.run(bound.containers.delete, record.id)
        if record.snapshot_key:
            with suppress(NotFound):
                await self._core.run(bound.snapshotter(record.snapshotter).remove, record.snapshot_key)
        folder = native.own_folder(record.labels, record.id)
        if folder and Path(folder).is_relative_to(self._logs):
            await self._core.run(shutil.rmtree, folder, ignore_errors=True)
        await self._remove_volumes(bound, native.anonymous_volumes(record.labels))

    async def _remove_volumes(self, bound: Namespaced, names: Sequence[str]) -> None:
        """Remove volumes that no other container has been given since."""
        others = await self._core.run(bound.containers.list) if names else []
        for name in names:
            if not any(other.spec is not None and name.encode() in other.spec.value for other in others):
                await self._core.run(shutil.rmtree, self._volumes / bound.namespace / name, ignore_errors=True)


def _is_attended(record: Container, process: Process) -> bool:
    """Whether a client is attached: it has FIFOs for the output, and reads them, or did so until a moment ago."""
    fifos = native.client_fifos(record.labels, record.id, process.stdio)
    recent = time.time() - process.exited_at / 1e9 < _ATTACHED_GRACE
    return bool(fifos) and (recent or any(map(native.is_read, fifos)))


def _process(bound: Namespaced, id: str) -> Process | None:
    try:
        return bound.tasks.get(id)
    except NotFound:
        return None
