"""`containerd.services.tasks.v1`."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.empty_pb2 import Empty

from moorage_api import filters
from moorage_api.convert import (
    any_message,
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_from_wire,
    timestamp,
    typed_value,
)
from moorage_api.core import Core
from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.rpc import Call, Service
from moorage_api.runtime import Exit, Process, Stdio, TaskManager
from moorage_api.wire import task_types_pb2, types_pb2
from moorage_api.wire import tasks_pb2 as pb
from mooraged.runtime import checkpoints

_METRICS_SECONDS = 2.0


class Tasks:
    """The handlers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Create(self, request: pb.CreateTaskRequest, call: Call) -> pb.CreateTaskResponse:
        space = self._core.namespaced(call.namespace)
        checkpoint = descriptor_from_wire(request.checkpoint) if request.HasField("checkpoint") else None
        async with checkpoints.unpacked(space.content, checkpoint) as folder:
            process = await space.tasks.create(
                request.container_id,
                rootfs=mounts_from_wire(request.rootfs),
                stdio=Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
                options=typed_value(request.options),
                checkpoint=folder,
                runtime=request.runtime_path,
            )
        return pb.CreateTaskResponse(container_id=request.container_id, pid=process.pid)

    async def Start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        return pb.StartResponse(pid=await self._tasks(call).start(request.container_id, request.exec_id))

    async def Delete(self, request: pb.DeleteTaskRequest, call: Call) -> pb.DeleteResponse:
        return _deleted("", await self._tasks(call).delete(request.container_id))

    async def DeleteProcess(self, request: pb.DeleteProcessRequest, call: Call) -> pb.DeleteResponse:
        if not request.exec_id:
            raise InvalidArgument("exec id must not be empty")
        return _deleted(request.exec_id, await self._tasks(call).delete(request.container_id, request.exec_id))

    async def Get(self, request: pb.GetRequest, call: Call) -> pb.GetResponse:
        return pb.GetResponse(process=process_to_wire(self._tasks(call).get(request.container_id, request.exec_id)))

    async def List(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        return pb.ListTasksResponse(tasks=map(process_to_wire, self._tasks(call).list()))

    async def Kill(self, request: pb.KillRequest, call: Call) -> Empty:
        await self._tasks(call).kill(request.container_id, request.signal, request.exec_id, all=request.all)
        return Empty()

    async def Exec(self, request: pb.ExecProcessRequest, call: Call) -> Empty:
        spec = typed_value(request.spec)
        if spec is None:
            raise InvalidArgument(f"process {request.exec_id} of task {request.container_id} has no spec")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._tasks(call).exec(request.container_id, request.exec_id, spec, stdio)
        return Empty()

    async def ResizePty(self, request: pb.ResizePtyRequest, call: Call) -> Empty:
        await self._tasks(call).resize(request.container_id, request.width, request.height, request.exec_id)
        return Empty()

    async def CloseIO(self, request: pb.CloseIORequest, call: Call) -> Empty:
        if request.stdin:
            await self._tasks(call).close_io(request.container_id, request.exec_id)
        return Empty()

    async def Pause(self, request: pb.PauseTaskRequest, call: Call) -> Empty:
        await self._tasks(call).pause(request.container_id)
        return Empty()

    async def Resume(self, request: pb.ResumeTaskRequest, call: Call) -> Empty:
        await self._tasks(call).resume(request.container_id)
        return Empty()

    async def ListPids(self, request: pb.ListPidsRequest, call: Call) -> pb.ListPidsResponse:
        pids = await self._tasks(call).pids(request.container_id)
        return pb.ListPidsResponse(
            processes=[task_types_pb2.ProcessInfo(pid=pid, info=any_message(details)) for pid, details in pids]
        )

    async def Checkpoint(self, request: pb.CheckpointTaskRequest, call: Call) -> pb.CheckpointTaskResponse:
        space = self._core.namespaced(call.namespace, call.lease)
        descriptors = await checkpoints.save(space, request.container_id, typed_value(request.options))
        return pb.CheckpointTaskResponse(descriptors=map(descriptor_to_wire, descriptors))

    async def Update(self, request: pb.UpdateTaskRequest, call: Call) -> Empty:
        resources = typed_value(request.resources)
        if resources is None:
            raise InvalidArgument(f"update of task {request.container_id} names no resources")
        await self._tasks(call).update(request.container_id, resources, dict(request.annotations))
        return Empty()

    async def Metrics(self, request: pb.MetricsRequest, call: Call) -> pb.MetricsResponse:
        wanted = filters.parse(list(request.filters))
        tasks, namespace = self._tasks(call), call.namespace
        ids = [
            task.container_id
            for task in tasks.list()
            if wanted.matches({("id",): task.container_id, ("namespace",): namespace}.get)  # type: ignore[arg-type]
        ]
        metrics = await asyncio.gather(*(_metric(tasks, id) for id in ids))
        return pb.MetricsResponse(metrics=[metric for metric in metrics if metric is not None])

    async def Wait(self, request: pb.WaitRequest, call: Call) -> pb.WaitResponse:
        exit = await self._tasks(call).wait(request.container_id, request.exec_id)
        return pb.WaitResponse(exit_status=exit.status, exited_at=timestamp(exit.at))

    def _tasks(self, call: Call) -> TaskManager:
        return self._core.namespaced(call.namespace).tasks


def process_to_wire(process: Process) -> task_types_pb2.Process:
    """As containerd does, `id` is the exec's, or the container's for its first process."""
    return task_types_pb2.Process(
        container_id=process.container_id,
        id=process.exec_id or process.container_id,
        pid=process.pid,
        status=task_types_pb2.Status.Value(process.status.name),
        stdin=process.stdio.stdin,
        stdout=process.stdio.stdout,
        stderr=process.stdio.stderr,
        terminal=process.stdio.terminal,
        exit_status=process.exit_status,
        exited_at=timestamp(process.exited_at),
    )


async def _metric(tasks: TaskManager, id: str) -> types_pb2.Metric | None:
    """The metrics of one task; None for one that has none now (it exited, its shim hangs), which spoils no other's."""
    try:
        async with asyncio.timeout(_METRICS_SECONDS):
            data = await tasks.stats(id)
    except (MoorageError, TimeoutError):
        return None
    return types_pb2.Metric(timestamp=timestamp(time.time_ns()), id=id, data=any_message(data))


def _deleted(exec_id: str, exit: Exit) -> pb.DeleteResponse:
    return pb.DeleteResponse(id=exec_id, pid=exit.pid, exit_status=exit.status, exited_at=timestamp(exit.at))


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Tasks"], Tasks(core))
