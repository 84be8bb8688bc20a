"""The deletion of processes and tasks, and of what is left of tasks whose shim died."""

from __future__ import annotations

import asyncio
import logging
import time

from moorage_api.errors import FailedPrecondition, Internal, MoorageError, NotFound, Unavailable
from moorage_api.linux import mount
from moorage_api.runtime import Exit, Status, Stdio
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert
from mooraged.runtime.announcer import remember
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.shim import Shim
from mooraged.runtime.surroundings import Surroundings

log = logging.getLogger(__name__)
KILLED = 137
"""The exit status of a process that died with its shim: 128 plus SIGKILL."""
_ALIVE = frozenset({Status.RUNNING, Status.PAUSING, Status.PAUSED})


class Deleter:
    """Deletes in all namespaces. Its calls must not be cancelled half-way: run them as jobs."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    async def delete_exec(self, task: Task, process: ProcessState) -> Exit:
        """Delete a process that was added. `FailedPrecondition` while it runs."""
        shim = task.shim
        if shim is not None:
            try:
                answer = await self._ask(shim, task, process)
                self._finish(task, process, convert.exit_of(answer))
            except (NotFound, Unavailable):
                if process.exit is None:
                    raise
        elif process.exit is None:
            await process.wait()
        if task.execs.get(process.exec_id) is process:
            del task.execs[process.exec_id]
        return process.exit or Exit(KILLED, time.time_ns(), process.pid)

    def dismiss_exec(self, task: Task, process: ProcessState) -> Exit | None:
        """Delete a process that has ended and had no streams: its shim is asked before this returns, and need not be waited
        for, as nothing is left of such a process but its name. That may be used again as soon as `task.leaving` has
        it no more. None for any other process."""
        shim = task.shim
        if shim is None or process.exit is None or process.stdio != Stdio():
            return None
        answer = shim.task.Delete.submit(pb.DeleteRequest(id=task.id, exec_id=process.exec_id))
        name = f"process {process.exec_id} of task {task.id}"
        task.leaving[process.exec_id] = self._around.jobs.spawn(self._see_off(task, process, answer), f"delete {name}")
        del task.execs[process.exec_id]
        return process.exit

    async def _see_off(self, task: Task, process: ProcessState, answer: asyncio.Future[bytes]) -> None:
        """One that its shim could not delete is found there when it is asked for again."""
        try:
            async with asyncio.timeout(self._around.config.call_timeout):
                await answer
        except (NotFound, Unavailable):
            return
        except (MoorageError, TimeoutError) as error:
            reason = error.message if isinstance(error, MoorageError) else "no answer"
            log.warning("process %s of task %s is left in its shim: %s", process.exec_id, task.id, reason)
        finally:
            task.leaving.pop(process.exec_id, None)

    async def delete(self, task: Task) -> Exit:
        """Delete the task, its bundle, and the shim if that is the task's own. `FailedPrecondition` while it runs."""
        async with task.lock:
            if self._around.ledger.find(task.namespace, task.id) is not task:
                raise NotFound(f"task {task.id} not found")
            shim = task.shim
            if shim is not None and await self._delete_in(shim, task):
                if not shim.sandbox:
                    await self._around.shims.shutdown(shim)
            else:
                await task.init.wait()
                self._around.announcer.deleted(task)
            exit = task.init.exit
            assert exit is not None
            try:
                await asyncio.to_thread(task.bundle.remove)
            except OSError as error:
                raise Internal(f"bundle of task {task.id} could not be removed: {error}") from error
            self._around.ledger.drop(task)
            return exit

    async def release(self, task: Task) -> None:
        """Have the shim, which is about to end, give up all that it holds of a stopped task. The task stays, as dead,
        until it is deleted. Where the shim fails, `bury` has the rest to do."""
        shim = task.shim
        if shim is None or not task.ready:
            return
        task.released = True
        try:
            if not await self._delete_in(shim, task):
                return
        except MoorageError as error:
            task.released = False
            log.warning("task %s was not released by its shim: %s", task.id, error.message)
            return
        task.shim = None
        for process in task.execs.values():
            self._finish(task, process, Exit(KILLED, time.time_ns(), process.pid))
        remember(task, task.init)

    async def bury(self, task: Task, reason: str) -> None:
        """The task's shim is gone: remove what it left, and tell how the task ended. The task stays until it is deleted."""
        if not task.ready:
            return  # its creation fails for the same reason, and is undone there
        task.shim = None
        clean = self._around.shims.clean if task.launch.sandbox_id else self._around.shims.delete
        told = await clean(task.bundle, task.launch.launcher)
        now = time.time_ns()
        if task.init.exit is None:
            log.warning("task %s in %s: its shim died (%s)", task.id, task.namespace, reason)
        for process in task.processes():
            known = told if told is not None and told.at and process is task.init else None
            process.finish(known or Exit(KILLED, now, process.pid))
            self._around.announcer.announce(task, process)
        remember(task, task.init)
        try:
            await asyncio.to_thread(mount.unmount_recursive, str(task.bundle.path))
        except OSError as error:
            log.error("mounts of task %s could not be taken down: %s", task.id, error)

    async def _delete_in(self, shim: Shim, task: Task) -> bool:
        """Delete the task in its shim; False when the shim is gone, or does not know the task."""
        try:
            answer = await self._ask(shim, task, task.init)
        except NotFound:
            self._finish(task, task.init, Exit(KILLED, time.time_ns(), task.init.pid))
            return True
        except Unavailable:
            if shim.client.connected:
                raise
            return False
        self._finish(task, task.init, convert.exit_of(answer))
        return True

    def _finish(self, task: Task, process: ProcessState, exit: Exit) -> None:
        if process.finish(exit):
            self._around.announcer.exited(task, process)

    async def _ask(self, shim: Shim, task: Task, process: ProcessState) -> pb.DeleteResponse:
        request = pb.DeleteRequest(id=task.id, exec_id=process.exec_id)
        try:
            return await shim.task.Delete(request, timeout=self._around.config.call_timeout)
        except (NotFound, Unavailable, FailedPrecondition):
            raise
        except MoorageError as error:
            if process.status in _ALIVE and process.exit is None:
                name = f"process {process.exec_id} of task {task.id}" if process.exec_id else f"task {task.id}"
                raise FailedPrecondition(f"{name} is running: {error.message}") from error
            raise
