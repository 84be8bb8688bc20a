"""After a start of the daemon: find the shims that run on, learn what happened meanwhile, remove what was half-made.

Every bundle is looked at in parallel. A shim that does not answer in time is taken for alive with what its bundle says
(status UNKNOWN), and what it answers later is believed then: the start never waits for it, and it is never killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage_api.errors import DataLoss, MoorageError, NotFound, Unavailable
from moorage_api.runtime import Exit, Status, Stdio
from moorage_api.wire import runc_options_pb2
from moorage_api.wire import runtime_sandbox_pb2 as sandbox_pb
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert, pause
from mooraged.runtime.bundle import Bundle, Launch, Record, scan
from mooraged.runtime.deletion import Deleter
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.resolver import OURS
from mooraged.runtime.sandboxes import Sandboxes, SandboxState
from mooraged.runtime.shim import Shim
from mooraged.runtime.surroundings import Surroundings
from mooraged.runtime.ttrpc_client import consumed
from mooraged.runtime.watcher import Watcher

log = logging.getLogger(__name__)
_DETAILS_TYPE = runc_options_pb2.ProcessDetails.DESCRIPTOR.full_name


@dataclass(frozen=True)
class _Left:
    """A bundle that an earlier daemon left. Without a record nobody was told of what is in it."""

    bundle: Bundle
    launch: Launch
    record: Record | None


class Recovery:
    """Takes in what an earlier daemon left."""

    def __init__(self, surroundings: Surroundings, sandboxes: Sandboxes, deleter: Deleter, watcher: Watcher) -> None:
        self._around = surroundings
        self._sandboxes = sandboxes
        self._deleter = deleter
        self._watcher = watcher
        self._known = asyncio.Event()

    async def known(self) -> None:
        """Wait until all tasks are in the ledger, with the exits that were told. Events of shims come after that: one that
        a shim repeats, because its daemon went before it had answered, would be taken for news."""
        await self._known.wait()

    async def run(self) -> None:
        """Recover sandboxes, then tasks, which may be in them. What takes longer than the configured time goes on in the
        background."""
        sandboxes = await asyncio.to_thread(_scan, self._around.sandbox_folder)
        tasks = await asyncio.to_thread(_scan, self._around.task_folder)
        taken = [self._take_in(left) for left in tasks]
        self._known.set()
        await self._around.shims.end_unknown(filter(None, map(_address, [*sandboxes, *tasks])))
        await self._together(sandboxes, [self._sandbox(left) for left in sandboxes])
        await self._together(
            tasks, [self._reach(task) if task else self._discard(left) for left, task in zip(tasks, taken, strict=True)]
        )

    async def _together(self, left: Sequence[_Left], recoveries: Sequence[Coroutine[Any, Any, None]]) -> None:
        jobs = [
            self._around.jobs.spawn(self._guarded(found.bundle, job), f"recover {found.bundle.id}")
            for found, job in zip(left, recoveries, strict=True)
        ]
        if jobs:
            await asyncio.wait(jobs, timeout=self._around.config.recovery_timeout)

    async def _guarded(self, bundle: Bundle, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except (MoorageError, OSError) as error:
            log.error("%s in %s could not be recovered: %s", bundle.id, bundle.namespace, error)

    async def _sandbox(self, left: _Left) -> None:
        bundle, launch, record = left.bundle, left.launch, left.record
        if record is None:
            await self._discard(left)
            return
        state = SandboxState(
            bundle.namespace, bundle.id, bundle, launch, ready=True, pid=record.pid, created_at=record.created_at
        )
        if record.exited:
            state.exit = Exit(record.exit_status, record.exited_at, record.pid)
            state.ended.set()
        self._sandboxes.add(state)
        state.shim = await self._around.shims.reconnect(
            bundle, launch.launcher, self._around.config.recovery_timeout, sandbox=True
        )
        if state.shim is not None and pause.is_kept(bundle.path):
            state.shim.keep_pause()
        if record.exited:
            return  # with its shim, if the daemon died before it had ended that: stopping it again does
        if state.shim is None:
            await self._sandboxes.found_dead(state)
            return
        self._sandboxes.watch(state)
        # A shim that is just dying still takes connections; what answers, lives.
        answer = state.shim.sandboxes.SandboxStatus.submit(sandbox_pb.SandboxStatusRequest(sandbox_id=bundle.id))
        await asyncio.wait([answer])
        error = consumed(answer)
        if isinstance(error, Unavailable):
            await state.ended.wait()
        elif error is not None:
            log.warning("state of sandbox %s is not known: %s", bundle.id, error.message)

    def _take_in(self, left: _Left) -> Task | None:
        """Put a task into the ledger, as its record has it."""
        bundle, launch, record = left.bundle, left.launch, left.record
        if record is None:
            return None
        init = ProcessState(bundle.id, "", record.stdio, record.pid, Status.UNKNOWN)
        task = Task(bundle.namespace, bundle.id, bundle, launch, init, ready=True, created_at=record.created_at)
        if record.exited:
            init.announced = True
            init.finish(Exit(record.exit_status, record.exited_at, record.pid))
        self._around.ledger.reserve(task)
        return task

    async def _reach(self, task: Task) -> None:
        """Find the shim of a task, and what happened meanwhile."""
        task.shim = await self._shim_of(task)
        if task.shim is not None:
            await self._learn(task, task.shim)
        else:
            await self._deleter.bury(task, "it died while the daemon was away")

    async def _shim_of(self, task: Task) -> Shim | None:
        if not task.launch.sandbox_id:
            return await self._around.shims.reconnect(
                task.bundle, task.launch.launcher, self._around.config.recovery_timeout
            )
        try:
            found = self._sandboxes.shim(task.namespace, task.launch.sandbox_id)
        except MoorageError:
            return None
        return found[0] if found else None

    async def _learn(self, task: Task, shim: Shim) -> None:
        """Ask the shim for the state, without a deadline: whenever it answers, it is news."""
        answer = shim.task.State.submit(pb.StateRequest(id=task.id))
        await asyncio.wait([answer])
        error = consumed(answer)
        if isinstance(error, NotFound):
            # Deleted in the shim, and the daemon died before it could say so.
            if not shim.sandbox:
                await self._around.shims.shutdown(shim)
            task.shim = None
            await asyncio.to_thread(task.bundle.remove)
            self._around.ledger.drop(task)
            return
        if isinstance(error, Unavailable):
            await task.init.wait()  # it died just now, and is being buried
            return
        if error is not None:
            log.warning("state of task %s is not known: %s", task.id, error.message)
            return
        state = shim.task.State.parse(answer.result())
        if state.pid:
            task.init.pid = state.pid
        status = convert.status(state.status)
        if status is Status.STOPPED:
            self._watcher.exited(
                task, task.init, Exit(state.exit_status, convert.nanoseconds(state.exited_at), state.pid)
            )
            self._around.announcer.announce(task, task.init)
            return
        task.init.advance(status)
        self._watcher.watch(task, task.init)
        await self._learn_execs(task, shim)

    async def _learn_execs(self, task: Task, shim: Shim) -> None:
        """Find the processes that were added and still run."""
        try:
            answer = await shim.task.Pids(pb.PidsRequest(id=task.id), timeout=self._around.config.call_timeout)
        except MoorageError as error:
            log.debug("processes of task %s are not known: %s", task.id, error.message)
            return
        for info in answer.processes:
            if info.info.type_url.rpartition("/")[2] != _DETAILS_TYPE:
                continue
            exec_id = runc_options_pb2.ProcessDetails.FromString(info.info.value).exec_id
            if exec_id and exec_id not in task.execs:
                process = ProcessState(task.id, exec_id, Stdio(), info.pid, Status.RUNNING)
                task.execs[exec_id] = process
                self._watcher.watch(task, process)

    async def _discard(self, left: _Left) -> None:
        """Remove a creation that nobody was told of."""
        bundle, launch = left.bundle, left.launch
        log.info("removing the half-made %s in %s", bundle.id, bundle.namespace)
        if launch.sandbox_id:
            found = None
            try:
                found = self._sandboxes.shim(bundle.namespace, launch.sandbox_id)
            except MoorageError:
                log.debug("sandbox %s of the half-made %s is not ready", launch.sandbox_id, bundle.id)
            if found is not None:
                await self._delete_in(found[0], bundle)
            await self._around.shims.clean(bundle, launch.launcher)
        else:
            await self._around.shims.delete(bundle, launch.launcher)
        await asyncio.to_thread(bundle.remove)

    async def _delete_in(self, shim: Shim, bundle: Bundle) -> None:
        try:
            await shim.task.Delete(pb.DeleteRequest(id=bundle.id), timeout=self._around.config.shutdown_timeout)
        except MoorageError as error:
            log.debug("half-made %s is not in its sandbox's shim: %s", bundle.id, error.message)


def _scan(folder: Path) -> list[_Left]:
    return [_Left(bundle, *_read(bundle)) for bundle in scan(folder)]


def _address(left: _Left) -> str:
    """Where the shim of a bundle listens that a client was told of; empty for others."""
    try:
        endpoint = left.bundle.endpoint() if left.record is not None else None
    except DataLoss as error:
        log.warning("%s", error.message)
        return ""
    return endpoint.bootstrap.address if endpoint is not None else ""


def _read(bundle: Bundle) -> tuple[Launch, Record | None]:
    """A damaged record means that the daemon died while it was written; so nobody was told."""
    launch, record = Launch(OURS, ""), None
    try:
        launch = bundle.launch() or launch
        record = bundle.record()
    except DataLoss as error:
        log.warning("%s", error.message)
    return launch, record
