"""The tasks of one namespace (`moorage_api.runtime.TaskManager`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from google.protobuf.empty_pb2 import Empty

from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MoorageError, NotFound, Unavailable
from moorage_api.mounts import Mount
from moorage_api.runtime import Exit, Process, Status, Stdio
from moorage_api.types import TypedValue, check_identifier
from moorage_api.wire import moorage_shim_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert
from mooraged.runtime.creation import Creator, Request
from mooraged.runtime.deletion import Deleter
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.shim import Shim
from mooraged.runtime.surroundings import Surroundings
from mooraged.runtime.ttrpc_client import consumed
from mooraged.runtime.watcher import Watcher, ask

_ALIVE = frozenset({Status.RUNNING, Status.PAUSING, Status.PAUSED})


class NamespacedTasks:
    """The tasks of one namespace. What a shim is asked, it is asked once, with a deadline; what is known is not asked."""

    def __init__(
        self, namespace: str, surroundings: Surroundings, creator: Creator, deleter: Deleter, watcher: Watcher
    ) -> None:
        self._namespace = namespace
        self._around = surroundings
        self._creator = creator
        self._deleter = deleter
        self._watcher = watcher
        self._timeout = surroundings.config.call_timeout

    async def create(
        self,
        container_id: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = Stdio(),
        options: TypedValue | None = None,
        checkpoint: str = "",
        runtime: str = "",
    ) -> Process:
        """As the contract says; `runtime` replaces the runtime's name of the record."""
        request = Request(container_id, rootfs, stdio, options, checkpoint, runtime)
        creation = self._around.jobs.spawn(
            self._creator.create(self._namespace, request), f"create task {container_id}"
        )
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            # A shim can't be told to stop half-way: let it finish, then take back what nobody waits for.
            if not creation.cancelled():
                self._around.jobs.start(self._abandon(creation, container_id), f"abandon task {container_id}")
            raise

    async def start(self, container_id: str, exec_id: str = "") -> int:
        task, process, shim = await self._live(container_id, exec_id)
        if exec_id:
            return await self._start_exec(task, process, shim)
        pid = await self._ask_start(process, shim)
        if task.bundle.has_checkpoint:
            await asyncio.to_thread(task.bundle.drop_checkpoint)
        return pid

    async def _start_exec(self, task: Task, process: ProcessState, shim: Shim) -> int:
        """Its end is asked for together with its start: of a short process both are told at once."""
        self._prepare_exec()
        end = ask(shim, process)
        try:
            pid = await self._ask_start(process, shim)
        except BaseException:
            end.cancel()
            raise
        if end.done() and consumed(end) is not None:
            # A shim that can not be asked before the start.
            self._watcher.watch(task, process)
        else:
            self._watcher.heed(task, process, shim.task.Wait, end)
        return pid

    def _prepare_exec(self) -> None:
        """Have the kernel's lock ready, once the shim has been asked: to wake a thread takes longer than that."""
        asyncio.get_running_loop().call_soon(self._around.cgroup_lock.prepare)

    async def _ask_start(self, process: ProcessState, shim: Shim) -> int:
        request = pb.StartRequest(id=process.container_id, exec_id=process.exec_id)
        answer = await shim.task.Start(request, timeout=self._around.config.create_timeout)
        process.started(answer.pid)
        return answer.pid

    async def exec(self, container_id: str, exec_id: str, spec: TypedValue, stdio: Stdio = Stdio()) -> None:
        check_identifier(exec_id, "exec id")
        task, _, shim = await self._live(container_id)
        await task.seen_off(exec_id)
        if exec_id in task.execs:
            raise AlreadyExists(f"process {exec_id} of task {container_id} already exists")
        self._prepare_exec()
        process = task.execs[exec_id] = ProcessState(container_id, exec_id, stdio)
        self._around.announcer.expect(self._namespace, container_id, exec_id)
        request = pb.ExecProcessRequest(
            id=container_id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=convert.any_message(spec),
        )
        try:
            await shim.task.Exec(request, timeout=self._timeout)
        except BaseException:
            if task.execs.get(exec_id) is process:
                del task.execs[exec_id]
            raise

    async def kill(self, container_id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        _, process, shim = await self._live(container_id, exec_id)
        if process.exit is not None and not all:
            raise NotFound(f"process {exec_id or container_id} has exited already")
        await shim.task.Kill(
            pb.KillRequest(id=container_id, exec_id=exec_id, signal=signal, all=all), timeout=self._timeout
        )

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        task, process = await self._find(container_id, exec_id)
        if exec_id:
            exit = self._deleter.dismiss_exec(task, process)
            return exit if exit is not None else await self._delete_exec(task, process)
        return await self._around.jobs.finish(self._deleter.delete(task), f"delete task {container_id}")

    async def _delete_exec(self, task: Task, process: ProcessState) -> Exit:
        deletion = self._deleter.delete_exec(task, process)
        return await self._around.jobs.finish(deletion, f"delete process {process.exec_id} of {task.id}")

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        _, process = await self._find(container_id, exec_id)
        return await process.wait()

    def get(self, container_id: str, exec_id: str = "") -> Process:
        return self._around.ledger.get(self._namespace, container_id).process(exec_id).view()

    def list(self) -> list[Process]:
        return [task.init.view() for task in self._around.ledger.tasks(self._namespace)]

    async def pause(self, container_id: str) -> None:
        _, process, shim = await self._live(container_id)
        if process.status is Status.CREATED:
            raise FailedPrecondition(f"task {container_id} has not been started")
        await shim.task.Pause(pb.PauseRequest(id=container_id), timeout=self._timeout)
        process.advance(Status.PAUSED)

    async def resume(self, container_id: str) -> None:
        _, process, shim = await self._live(container_id)
        await shim.task.Resume(pb.ResumeRequest(id=container_id), timeout=self._timeout)
        process.advance(Status.RUNNING)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        _, _, shim = await self._live(container_id, exec_id)
        request = pb.ResizePtyRequest(id=container_id, exec_id=exec_id, width=width, height=height)
        await shim.task.ResizePty(request, timeout=self._timeout)

    async def close_io(self, container_id: str, exec_id: str = "", *, stdin: bool = True) -> None:
        _, _, shim = await self._live(container_id, exec_id)
        request = pb.CloseIORequest(id=container_id, exec_id=exec_id, stdin=stdin)
        await shim.task.CloseIO(request, timeout=self._timeout)

    async def pids(self, container_id: str) -> Sequence[tuple[int, TypedValue | None]]:
        _, _, shim = await self._live(container_id)
        answer = await shim.task.Pids(pb.PidsRequest(id=container_id), timeout=self._timeout)
        return [(p.pid, convert.typed_value(p.info) if p.HasField("info") else None) for p in answer.processes]

    async def stats(self, container_id: str) -> TypedValue:
        _, _, shim = await self._live(container_id)
        answer = await shim.task.Stats(pb.StatsRequest(id=container_id), timeout=self._timeout)
        return convert.typed_value(answer.stats)

    async def update(
        self, container_id: str, resources: TypedValue, annotations: Mapping[str, str] | None = None
    ) -> None:
        _, _, shim = await self._live(container_id)
        request = pb.UpdateTaskRequest(
            id=container_id, resources=convert.any_message(resources), annotations=dict(annotations or {})
        )
        await shim.task.Update(request, timeout=self._timeout)

    async def checkpoint(self, container_id: str, path: str, options: TypedValue | None = None) -> None:
        if not path.startswith("/"):
            raise InvalidArgument(f"checkpoint path {path!r} must be absolute")
        _, _, shim = await self._live(container_id)
        request = pb.CheckpointTaskRequest(id=container_id, path=path, options=convert.any_message(options))
        await shim.task.Checkpoint(request, timeout=self._around.config.checkpoint_timeout)

    async def attach(self, container_id: str, stdio: Stdio, exec_id: str = "", *, patient: bool = False) -> None:
        _, _, shim = await self._live(container_id, exec_id)
        request = moorage_shim_pb2.AttachRequest(
            id=container_id, exec_id=exec_id, stdout=stdio.stdout, stderr=stdio.stderr, patient=patient
        )
        answer: Empty = await shim.streams.Attach(request, timeout=self._timeout)
        del answer

    async def reopen_log(self, container_id: str) -> None:
        _, _, shim = await self._live(container_id)
        answer: Empty = await shim.logs.Reopen(moorage_shim_pb2.ReopenRequest(id=container_id), timeout=self._timeout)
        del answer

    async def _find(self, container_id: str, exec_id: str = "") -> tuple[Task, ProcessState]:
        """The process, from memory; one that an earlier daemon added is asked of the shim, once. `NotFound`."""
        task = self._around.ledger.get(self._namespace, container_id)
        await task.seen_off(exec_id)
        if exec_id and exec_id not in task.execs and task.shim is not None:
            await self._adopt(task, exec_id, task.shim)
        return task, task.process(exec_id)

    async def _live(self, container_id: str, exec_id: str = "") -> tuple[Task, ProcessState, Shim]:
        """As `_find`, with the shim. `NotFound` for a task that is known to be dead with its shim."""
        task, process = await self._find(container_id, exec_id)
        if task.shim is None:
            raise NotFound(f"task {container_id} is dead: its shim is gone")
        return task, process, task.shim

    async def _adopt(self, task: Task, exec_id: str, shim: Shim) -> None:
        check_identifier(exec_id, "exec id")
        answer = await shim.task.State(pb.StateRequest(id=task.id, exec_id=exec_id), timeout=self._timeout)
        if exec_id in task.execs:
            return
        stdio = Stdio(answer.stdin, answer.stdout, answer.stderr, answer.terminal)
        process = ProcessState(task.id, exec_id, stdio, answer.pid, convert.status(answer.status))
        task.execs[exec_id] = process
        if process.status is Status.STOPPED:
            process.announced = True
            process.finish(Exit(answer.exit_status, convert.nanoseconds(answer.exited_at), answer.pid))
        elif process.status in _ALIVE:
            self._watcher.watch(task, process)

    async def _abandon(self, creation: asyncio.Task[Process], container_id: str) -> None:
        """Take back a creation whose caller went away."""
        with suppress(MoorageError, asyncio.CancelledError):
            await creation
            with suppress(NotFound, Unavailable):
                await self.delete(container_id)
