"""The task service (`containerd.task.v2.Task` and `v3`): requests in, answers out. What is done is in `container`."""

from __future__ import annotations

import os
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from moorage_api.mounts import Mount
from moorage_api.runtime import Stdio
from moorage_api.types import check_identifier
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_api.wire.runc_options_pb2 import ProcessDetails
from moorage_shim import metrics, oci, options
from moorage_shim.container import Container, Plan
from moorage_shim.launching import Host
from moorage_shim.oci import OciRuntime
from moorage_shim.process import Process
from moorage_shim.processes import find_program

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
_VERSION = "v3"


class Tasks:
    """The containers of this shim. A method a RPC, each with the request and the caller's timeout in seconds."""

    def __init__(self, host: Host, on_shutdown: Callable[[bool], None]) -> None:
        self._host = host
        self._on_shutdown = on_shutdown
        self._creating: set[str] = set()
        self.containers: dict[str, Container] = {}

    def wake(self) -> None:
        """Go on after a rest."""
        for container in self.containers.values():
            container.wake()

    def get(self, id: str) -> Container:
        """`NotFound` for what has not been created here."""
        try:
            return self.containers[id]
        except KeyError:
            raise NotFound(f"container {id} is not created in this shim") from None

    async def Create(self, request: pb.CreateTaskRequest, timeout: float | None) -> Message:
        container = self._plan(request)
        if request.id in self.containers or request.id in self._creating:
            raise AlreadyExists(f"container {request.id} exists in this shim")
        self._creating.add(request.id)
        try:
            await container.create(timeout)
            self.containers[request.id] = container
        finally:
            self._creating.discard(request.id)
        return pb.CreateTaskResponse(pid=container.init.pid)

    async def Start(self, request: pb.StartRequest, timeout: float | None) -> Message:
        return pb.StartResponse(pid=await self.get(request.id).start(request.exec_id, timeout))

    async def State(self, request: pb.StateRequest, _: float | None) -> Message:
        container = self.get(request.id)
        process = container.process(request.exec_id)
        stdio = process.stdio
        answer = pb.StateResponse(
            id=request.id,
            bundle=container.bundle,
            pid=process.pid,
            status=int(process.status),  # type: ignore[arg-type]  # the numbers are those of the wire
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            exec_id=request.exec_id,
        )
        _set_exit(answer, process)
        return answer

    async def Delete(self, request: pb.DeleteRequest, _: float | None) -> Message:
        process = await self.get(request.id).delete(request.exec_id)
        if not request.exec_id:
            self.containers.pop(request.id, None)
        answer = pb.DeleteResponse(pid=process.pid)
        _set_exit(answer, process)
        return answer

    async def Pids(self, request: pb.PidsRequest, _: float | None) -> Message:
        container = self.get(request.id)
        execs = {process.pid: process.exec_id for process in container.execs.values() if process.pid}
        answer = pb.PidsResponse()
        for pid in container.pids():
            info = answer.processes.add(pid=pid)
            if pid in execs:
                info.info.type_url = ProcessDetails.DESCRIPTOR.full_name
                info.info.value = ProcessDetails(exec_id=execs[pid]).SerializeToString()
        return answer

    async def Pause(self, request: pb.PauseRequest, _: float | None) -> Message:
        await self.get(request.id).pause()
        return Empty()

    async def Resume(self, request: pb.ResumeRequest, _: float | None) -> Message:
        await self.get(request.id).resume()
        return Empty()

    async def Checkpoint(self, request: pb.CheckpointTaskRequest, _: float | None) -> Message:
        container = self.get(request.id)
        _need_criu()
        work = os.path.join(container.bundle, "work")
        await container.checkpoint(options.checkpoint_flags(request.options, request.path, work), request.path)
        return Empty()

    async def Kill(self, request: pb.KillRequest, _: float | None) -> Message:
        await self.get(request.id).kill(request.exec_id, request.signal, all=request.all)
        return Empty()

    async def Exec(self, request: pb.ExecProcessRequest, _: float | None) -> Message:
        check_identifier(request.exec_id, "exec id")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self.get(request.id).add(request.exec_id, request.spec.value, stdio)
        return Empty()

    async def ResizePty(self, request: pb.ResizePtyRequest, _: float | None) -> Message:
        process = self.get(request.id).process(request.exec_id)
        process.check("resize")
        if process.streams is not None:
            process.streams.resize(request.width, request.height)
        return Empty()

    async def CloseIO(self, request: pb.CloseIORequest, _: float | None) -> Message:
        process = self.get(request.id).process(request.exec_id)
        if process.streams is not None:
            process.streams.close_stdin()
        return Empty()

    async def Update(self, request: pb.UpdateTaskRequest, _: float | None) -> Message:
        await self.get(request.id).update(request.resources.value)
        return Empty()

    async def Wait(self, request: pb.WaitRequest, _: float | None) -> Message:
        process = self.get(request.id).process(request.exec_id)
        await process.exited
        answer = pb.WaitResponse()
        _set_exit(answer, process)
        return answer

    async def Stats(self, request: pb.StatsRequest, _: float | None) -> Message:
        container = self.get(request.id)
        if not container.cgroup.folders:
            raise NotFound(f"container {request.id} has no control group of its own")
        answer = pb.StatsResponse()
        metrics.read_into(answer.stats, container.cgroup)
        return answer

    async def Connect(self, request: pb.ConnectRequest, _: float | None) -> Message:
        container = self.containers.get(request.id)
        pid = container.init.pid if container is not None else 0
        return pb.ConnectResponse(shim_pid=self._host.pid, task_pid=pid, version=_VERSION)

    async def Shutdown(self, request: pb.ShutdownRequest, _: float | None) -> Message:
        if not self.containers and not self._creating:
            self._on_shutdown(request.now)
        return Empty()

    def _plan(self, request: pb.CreateTaskRequest) -> Container:
        check_identifier(request.id, "container id")
        if not os.path.isdir(request.bundle):
            raise InvalidArgument(f"bundle {request.bundle!r} is not a folder")
        if request.checkpoint:
            _need_criu()
        opts = options.parse_options(request.options)
        namespace, bundle = self._host.namespace, request.bundle
        root = os.path.join(opts.root, namespace) if opts.root else oci.default_root(bundle, namespace)
        binary = opts.binary_name or oci.default_binary()
        runtime = OciRuntime(self._host.forker, binary, root, bundle, systemd_cgroup=opts.systemd_cgroup)
        plan = Plan(
            id=request.id,
            bundle=bundle,
            stdio=Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
            rootfs=[Mount(m.type, m.source, m.target, tuple(m.options)) for m in request.rootfs],
            flags=options.create_flags(opts),
            owner=(opts.io_uid, opts.io_gid),
            restore=options.restore_flags(request.checkpoint, opts.criu_work_path or os.path.join(bundle, "work")),
        )
        return Container(self._host, runtime, plan)


def _set_exit(answer: pb.StateResponse | pb.DeleteResponse | pb.WaitResponse, process: Process) -> None:
    if process.exited.done and process.exited.error is None:
        ended = process.exited.result()
        answer.exit_status = ended.status
        answer.exited_at.FromNanoseconds(ended.at)


def _need_criu() -> None:
    try:
        find_program("criu")
    except FileNotFoundError as error:
        raise Unimplemented("checkpoints need criu, which is not installed here") from error
