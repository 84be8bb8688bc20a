"""Health checks: a command that is run in a container again and again, and what its exit codes say of the container.

One worker a container that has a check and runs. It ends with the container's first process; the next start has one of
its own. What came of it is a file and a label (`moorage_api.health`), so that it goes on after a restart of the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import aclosing, suppress
from dataclasses import replace

from moorage_api import health, native
from moorage_api.containers import Container
from moorage_api.core import Core, Namespaced
from moorage_api.errors import MoorageError, NotFound, ResourceExhausted, Unavailable
from moorage_api.oci import spec as oci
from moorage_api.oci.image import Healthcheck
from moorage_api.runtime import Process, Status, Stdio
from moorage_api.wire import events_types_pb2
from mooraged.native.output import Output

logger = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_EXEC = "healthcheck"
_KILL_SECONDS = 10.0
_RUNNING = (Status.RUNNING, Status.PAUSED, Status.PAUSING)


class Health:
    """Watches the starts of all namespaces."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._workers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to watch, and take up the checks of what runs already."""
        self._watching = [
            asyncio.create_task(self._watch(), name="health checks"),
            asyncio.create_task(self._scan(), name="health scan"),
        ]

    async def stop(self) -> None:
        """End; the checks go on after the next start."""
        tasks = [*self._watching, *self._workers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._core.events.subscribe(['topic=="/tasks/start"'])) as starts:
                    async for envelope in starts:
                        event = events_types_pb2.TaskStart.FromString(envelope.event.value)
                        self._begin(envelope.namespace, event.container_id)
            except ResourceExhausted:
                # Too many starts at once for the queue: look at everything.
                await self._scan()
            except Unavailable:
                return

    async def _scan(self) -> None:
        for namespace in await self._core.run(self._core.namespaces.list):
            for process in self._core.namespaced(namespace).tasks.list():
                if process.status in _RUNNING:
                    self._begin(namespace, process.container_id)

    def _begin(self, namespace: str, id: str) -> None:
        key = namespace, id
        earlier = self._workers.pop(key, None)
        if earlier is not None:
            earlier.cancel()
        worker = asyncio.create_task(self._keep(namespace, id), name=f"health of {namespace}/{id}")
        self._workers[key] = worker
        worker.add_done_callback(lambda done: self._workers.pop(key) if self._workers.get(key) is done else None)

    async def _keep(self, namespace: str, id: str) -> None:
        bound = self._core.namespaced(namespace)
        try:
            record = await self._core.run(bound.containers.get, id)
            check = health.check_of(record)
            if check is None or not health.command(check) or not native.own_folder(record.labels, id):
                return
            await Worker(self._core, bound, record, health.with_defaults(check)).work()
        except NotFound:
            # Ended, or removed: there is nothing to check any more.
            return
        except (MoorageError, OSError) as error:
            logger.warning("health checks of container %s/%s are given up: %s", namespace, id, error)


class Worker:
    """The checks of one container from one start to its end."""

    def __init__(self, core: Core, bound: Namespaced, record: Container, check: Healthcheck) -> None:
        self._core = core
        self._bound = bound
        self._record = record
        self._check = check
        self._spec = oci.decode(record.spec)

    async def work(self) -> None:
        """Check after each interval until the first process has ended. `NotFound` when the container is gone."""
        process = self._bound.tasks.get(self._record.id)
        report = await self._core.run(health.read_report, self._record)
        if report is None or report.pid != process.pid:
            report = health.Report(process.pid, time.time_ns())
        await self._tell(report)
        while True:
            await asyncio.sleep(report.pause(self._check, time.time_ns()) / _SECOND)
            now = self._bound.tasks.get(self._record.id)
            if now.pid != process.pid or now.status not in _RUNNING:
                return
            if now.status is Status.RUNNING:
                report = report.after(await self._probe(now), self._check)
                await self._tell(report)

    async def _tell(self, report: health.Report) -> None:
        await self._core.run(health.write_report, self._record, report)
        if self._record.labels.get(health.STATUS) != report.status:
            changed = replace(self._record, labels={**self._record.labels, health.STATUS: report.status})
            fields = [f"labels.{health.STATUS}"]
            self._record = await self._core.run(self._bound.containers.update, changed, fields)

    async def _probe(self, process: Process) -> health.Result:
        """Run the check once. A container that ends meanwhile has failed it, which nobody will ask about."""
        start = time.time_ns()
        folder = native.own_folder(self._record.labels, self._record.id)
        async with Output(os.path.join(folder, _EXEC)) as output:
            try:
                exit_code = await self._run(Stdio("", output.path, output.path))
            except TimeoutError:
                seconds = self._check.timeout / _SECOND
                return health.Result(start, time.time_ns(), -1, f"Health check exceeded timeout ({seconds:g}s)")
            except NotFound:
                raise
            except MoorageError as error:
                return health.Result(start, time.time_ns(), -1, error.message)
            return health.Result(start, time.time_ns(), exit_code, output.text())

    async def _run(self, stdio: Stdio) -> int:
        """Returns the exit code. `TimeoutError` after the check's time: it is killed then."""
        tasks, id = self._bound.tasks, self._record.id
        await self._clear()
        request = oci.exec_process(self._spec, health.command(self._check))
        await tasks.exec(id, _EXEC, oci.encode(request, oci.PROCESS_URL), stdio)
        try:
            async with asyncio.timeout(self._check.timeout / _SECOND):
                await tasks.start(id, _EXEC)
                return (await tasks.wait(id, _EXEC)).status
        finally:
            await self._clear()

    async def _clear(self) -> None:
        """Forget the check's process; one that runs (a daemon that is gone began it) is killed first."""
        tasks, id = self._bound.tasks, self._record.id
        try:
            process = tasks.get(id, _EXEC)
        except NotFound:
            return
        if process.status in _RUNNING:
            with suppress(NotFound, TimeoutError):
                await tasks.kill(id, signal.SIGKILL, _EXEC)
                async with asyncio.timeout(_KILL_SECONDS):
                    await tasks.wait(id, _EXEC)
        with suppress(MoorageError):
            await tasks.delete(id, _EXEC)
