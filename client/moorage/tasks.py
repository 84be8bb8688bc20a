"""The tasks of a namespace: running processes of containers (`containerd.services.tasks.v1`)."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.convert import from_any, nanoseconds, to_any, to_mount
from moorage.session import Session
from moorage_api.mounts import Mount
from moorage_api.runtime import Exit, Process, Status, Stdio
from moorage_api.types import TypedValue
from moorage_api.wire import task_types_pb2
from moorage_api.wire import tasks_pb2 as wire
from moorage_api.wire.moorage_tasks_pb2 import AttachRequest
from moorage_api.wire.moorage_tasks_pb2_grpc import AttachmentsStub
from moorage_api.wire.tasks_pb2_grpc import TasksStub

START_DEADLINE = 120.0
"""Seconds for what starts a process: a shim of another kind (a virtual machine) may take its time."""


class Tasks:
    """Processes. The methods and their errors are those of `moorage_api.runtime.TaskManager`; where one takes an
    `exec_id`, empty means the container's first process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = TasksStub(session.channel)

    async def create(
        self,
        container_id: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = Stdio(),
        options: TypedValue | None = None,
    ) -> int:
        """Create a container's task; returns the pid of its waiting first process. `AlreadyExists`, `NotFound`."""
        request = wire.CreateTaskRequest(
            container_id=container_id,
            rootfs=[to_mount(mount) for mount in rootfs],
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            options=to_any(options),
        )
        response = await self._session.call(self._stub.Create, request, timeout=START_DEADLINE)
        return response.pid

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Let a created process run; returns its pid. `NotFound`, `FailedPrecondition`."""
        request = wire.StartRequest(container_id=container_id, exec_id=exec_id)
        return (await self._session.call(self._stub.Start, request, timeout=START_DEADLINE)).pid

    async def exec(self, container_id: str, exec_id: str, process: TypedValue, stdio: Stdio = Stdio()) -> None:
        """Add a process (an OCI `process`, as `moorage_api.oci.spec` encodes it); `start` starts it."""
        request = wire.ExecProcessRequest(
            container_id=container_id,
            exec_id=exec_id,
            spec=to_any(process),
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
        )
        await self._session.call(self._stub.Exec, request)

    async def attach(self, container_id: str, stdio: Stdio, exec_id: str = "") -> None:
        """Copy what a process writes from now on to the FIFOs `stdio.stdout` and `stdio.stderr`, too; they must have
        readers, and the process waits for those that are slow. `FailedPrecondition` where it does not run or its output
        goes nowhere, `NotFound`, `Unimplemented` by a daemon or a shim of another kind."""
        request = AttachRequest(
            container_id=container_id, exec_id=exec_id, stdout=stdio.stdout, stderr=stdio.stderr, patient=True
        )
        await self._session.call(AttachmentsStub(self._session.channel).Attach, request)

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        """A process as the daemon last saw it. `NotFound`."""
        response = await self._session.call(self._stub.Get, wire.GetRequest(container_id=container_id, exec_id=exec_id))
        return _from_process(response.process)

    async def list(self) -> list[Process]:
        """The first process of every task."""
        response = await self._session.call(self._stub.List, wire.ListTasksRequest())
        return [_from_process(process) for process in response.tasks]

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        """Return when the process has exited; at once when it has. `NotFound`."""
        request = wire.WaitRequest(container_id=container_id, exec_id=exec_id)
        response = await self._session.call(self._stub.Wait, request, timeout=None)
        return Exit(response.exit_status, nanoseconds(response.exited_at))

    async def kill(self, container_id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Send a signal. `NotFound` also when the process has exited."""
        request = wire.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal, all=all)
        await self._session.call(self._stub.Kill, request)

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        """Forget a process that has exited; returns how. `FailedPrecondition` while it runs, `NotFound`."""
        if exec_id:
            process = wire.DeleteProcessRequest(container_id=container_id, exec_id=exec_id)
            response = await self._session.call(self._stub.DeleteProcess, process)
        else:
            response = await self._session.call(self._stub.Delete, wire.DeleteTaskRequest(container_id=container_id))
        return Exit(response.exit_status, nanoseconds(response.exited_at), response.pid)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        """Tell a process's terminal its size in characters."""
        request = wire.ResizePtyRequest(container_id=container_id, exec_id=exec_id, width=width, height=height)
        await self._session.call(self._stub.ResizePty, request)

    async def close_io(self, container_id: str, exec_id: str = "") -> None:
        """Let the process see the end of its input, once what was written has been read."""
        request = wire.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=True)
        await self._session.call(self._stub.CloseIO, request)

    async def pids(self, container_id: str) -> Sequence[int]:
        """The processes in the container, as the host numbers them. `NotFound`."""
        response = await self._session.call(self._stub.ListPids, wire.ListPidsRequest(container_id=container_id))
        return [process.pid for process in response.processes]

    async def metrics(self, *container_ids: str) -> dict[str, TypedValue]:
        """What containers have used, by id: `io.containerd.cgroups.v1.Metrics` or `v2`. Those without a task are left
        out; without ids, all."""
        request = wire.MetricsRequest(filters=[f'id=="{id}"' for id in container_ids])
        response = await self._session.call(self._stub.Metrics, request)
        return {metric.id: from_any(metric.data) for metric in response.metrics}

    async def update(self, container_id: str, resources: TypedValue) -> None:
        """New limits for a running container: an OCI `LinuxResources` as JSON. `NotFound`."""
        request = wire.UpdateTaskRequest(container_id=container_id, resources=to_any(resources))
        await self._session.call(self._stub.Update, request)

    async def pause(self, container_id: str) -> None:
        await self._session.call(self._stub.Pause, wire.PauseTaskRequest(container_id=container_id))

    async def resume(self, container_id: str) -> None:
        await self._session.call(self._stub.Resume, wire.ResumeTaskRequest(container_id=container_id))


def _from_process(message: task_types_pb2.Process) -> Process:
    """`container_id` is empty on the wire for a container's first process in some daemons: the id is then its own."""
    own = not message.container_id or message.container_id == message.id
    return Process(
        container_id=message.id if own else message.container_id,
        exec_id="" if own else message.id,
        pid=message.pid,
        status=Status(message.status),
        stdio=Stdio(message.stdin, message.stdout, message.stderr, message.terminal),
        exit_status=message.exit_status,
        exited_at=nanoseconds(message.exited_at),
    )
