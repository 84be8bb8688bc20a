"""The sandbox service (`containerd.runtime.sandbox.v1.Sandbox`): what the containers of a pod share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from moorage_api import idmap
from moorage_api.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.linux.pins import unpin
from moorage_api.wire import runtime_sandbox_pb2 as pb
from moorage_api.wire.moorage_shim_pb2 import SandboxOptions
from moorage_shim import log, metrics, namespaces
from moorage_shim.cgroups import Cgroup
from moorage_shim.launching import Host
from moorage_shim.loop import Future
from moorage_shim.namespaces import PodNamespaces
from moorage_shim.podinit import end_init, write_init
from moorage_shim.processes import Ended
from moorage_shim.tasks import Tasks

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"

READY = "SANDBOX_READY"
NOT_READY = "SANDBOX_NOTREADY"

_MAKE_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass
class _Pod:
    """The one sandbox of this shim."""

    id: str
    plan: PodNamespaces
    init: int = 0
    started: bool = False
    created_at: int = 0
    ended: Ended | None = None


class Sandbox:
    """A method a RPC. A shim has one sandbox; a request with another id is not found."""

    def __init__(self, host: Host, tasks: Tasks, on_shutdown: Callable[[], None]) -> None:
        self._host = host
        self._loop = host.forker.loop
        self._tasks = tasks
        self._on_shutdown = on_shutdown
        self._pod: _Pod | None = None
        self._stopped: Future[Ended] = Future(self._loop, dormant=True)

    def wake(self) -> None:
        """Go on after a rest."""
        if self._pod is not None and self._pod.init:
            self._watch_init(self._pod)

    @property
    def active(self) -> bool:
        """Whether there is a sandbox that has not been stopped: then the shim must live."""
        return self._pod is not None and self._pod.ended is None

    async def CreateSandbox(self, request: pb.CreateSandboxRequest, _: float | None) -> Message:
        if self._pod is not None:
            raise AlreadyExists(f"this shim runs sandbox {self._pod.id}")
        plan = _plan(request)
        namespaces.check(plan)
        pod = self._pod = _Pod(request.sandbox_id, plan)
        try:
            if plan.kinds:
                await self._make(pod)
        except BaseException:
            self._pod = None
            self._end_init(pod)
            unpin(plan.path)
            raise
        return pb.CreateSandboxResponse()

    async def StartSandbox(self, request: pb.StartSandboxRequest, _: float | None) -> Message:
        pod = self._get(request.sandbox_id)
        if pod.ended is not None:
            raise FailedPrecondition(f"sandbox {pod.id} is stopped")
        pod.started = True
        pod.created_at = pod.created_at or time.time_ns()
        answer = pb.StartSandboxResponse(pid=_pid(pod, self._host.pid))
        answer.created_at.FromNanoseconds(pod.created_at)
        return answer

    async def Platform(self, request: pb.PlatformRequest, _: float | None) -> Message:
        answer = pb.PlatformResponse()
        machine = os.uname().machine
        answer.platform.os = "linux"
        answer.platform.architecture = _ARCHITECTURES.get(machine, machine)
        return answer

    async def StopSandbox(self, request: pb.StopSandboxRequest, _: float | None) -> Message:
        pod = self._get(request.sandbox_id)
        await self._kill_containers(request.timeout_secs or _STOP_TIMEOUT)
        if pod.ended is None:
            self._end_init(pod)
            unpin(pod.plan.path)
            pod.ended = Ended(0, time.time_ns())
            self._stopped.set(pod.ended)
        return pb.StopSandboxResponse()

    async def WaitSandbox(self, request: pb.WaitSandboxRequest, _: float | None) -> Message:
        self._get(request.sandbox_id)
        ended = await self._stopped
        answer = pb.WaitSandboxResponse(exit_status=ended.status)
        answer.exited_at.FromNanoseconds(ended.at)
        return answer

    async def SandboxStatus(self, request: pb.SandboxStatusRequest, _: float | None) -> Message:
        pod = self._get(request.sandbox_id)
        ready = pod.started and pod.ended is None
        answer = pb.SandboxStatusResponse(
            sandbox_id=pod.id, pid=_pid(pod, self._host.pid), state=READY if ready else NOT_READY
        )
        if pod.created_at:
            answer.created_at.FromNanoseconds(pod.created_at)
        if pod.ended is not None:
            answer.exited_at.FromNanoseconds(pod.ended.at)
        if request.verbose:
            answer.info["path"] = pod.plan.path
            answer.info["namespaces"] = ",".join(pod.plan.kinds)
            answer.info["containers"] = ",".join(sorted(self._tasks.containers))
        return answer

    async def PingSandbox(self, request: pb.PingRequest, _: float | None) -> Message:
        self._get(request.sandbox_id)
        return pb.PingResponse()

    async def ShutdownSandbox(self, request: pb.ShutdownSandboxRequest, timeout: float | None) -> Message:
        if self.active:
            await self.StopSandbox(pb.StopSandboxRequest(sandbox_id=request.sandbox_id), timeout)
        self._on_shutdown()
        return pb.ShutdownSandboxResponse()

    async def SandboxMetrics(self, request: pb.SandboxMetricsRequest, _: float | None) -> Message:
        """Those of the control group that holds the containers' own; nothing where they have none in common."""
        pod = self._get(request.sandbox_id)
        answer = pb.SandboxMetricsResponse()
        answer.metrics.id = pod.id
        answer.metrics.timestamp.GetCurrentTime()
        parents = [_parent(container.cgroup) for container in self._tasks.containers.values()]
        if parents and parents[0].folders and all(parent == parents[0] for parent in parents):
            metrics.read_into(answer.metrics.data, parents[0])
        return answer

    def _get(self, id: str) -> _Pod:
        if self._pod is None or self._pod.id != id:
            raise NotFound(f"sandbox {id} is not in this shim")
        return self._pod

    async def _make(self, pod: _Pod) -> None:
        """A PID namespace's init comes first: the helper pins its namespace with the others. In a user namespace of the
        pod's own it can only come after that."""
        if "user" not in pod.plan.kinds:
            await self._start_init(pod)
            await self._help(lambda: namespaces.make(pod.plan, pod.init))
            return
        await self._help(lambda: namespaces.make(pod.plan))
        await self._start_init(pod, os.path.join(pod.plan.path, "ns", "user"))
        if pod.init:
            await self._help(lambda: namespaces.pin_init(pod.plan.path, pod.init))

    async def _help(self, work: Callable[[], None]) -> None:
        await self._host.forker.call(work, _MAKE_TIMEOUT, "pod namespaces")

    async def _start_init(self, pod: _Pod, user: str = "") -> None:
        if "pid" not in pod.plan.kinds:
            return
        with self._host.forker.reaper.launching():
            pod.init = await self._host.forker.start_init(user, _MAKE_TIMEOUT, "the pod's init")
            write_init(pod.plan.path, pod.init)
            self._watch_init(pod)

    def _watch_init(self, pod: _Pod) -> None:
        future = self._host.forker.reaper.watch(pod.init, adopted=True)
        future.then(lambda ended: self._on_init_end(pod, ended))

    def _on_init_end(self, pod: _Pod, future: Future[Ended]) -> None:
        """The kernel has killed all that ran in the namespace: the sandbox is of no use any more."""
        pod.init = 0
        if pod is self._pod and pod.ended is None:
            log.warning(f"the init of sandbox {pod.id} has ended")
            pod.ended = future.result()
            end_init(pod.plan.path)
            unpin(pod.plan.path)
            self._stopped.set(pod.ended)

    def _end_init(self, pod: _Pod) -> None:
        if pod.init:
            pod.init = 0
            end_init(pod.plan.path)

    async def _kill_containers(self, timeout: float) -> None:
        running = [each for each in self._tasks.containers.values() if each.init.pid and each.init.ended is None]
        for container in running:
            container.kill_now()
        deadline = time.monotonic() + timeout
        for container in running:
            remaining = max(0.0, deadline - time.monotonic())
            try:
                await self._loop.within(container.init.exited, remaining, f"container {container.id}")
            except DeadlineExceeded as error:
                raise DeadlineExceeded(f"killed, but still there: {error.message}") from error


def _plan(request: pb.CreateSandboxRequest) -> PodNamespaces:
    """The options say what to make; without any, or of a type that is not ours, nothing is made."""
    if request.options.type_url.rpartition("/")[2] != SandboxOptions.DESCRIPTOR.full_name:
        return PodNamespaces(request.bundle_path, ())
    try:
        options = SandboxOptions.FromString(request.options.value)
    except DecodeError as error:
        raise InvalidArgument(f"sandbox options are no {SandboxOptions.DESCRIPTOR.full_name}") from error
    path = options.path or request.bundle_path
    if not os.path.isdir(path):
        raise InvalidArgument(f"sandbox path {path!r} is not a folder")
    uids, gids = (idmap.parse(text) if text else None for text in (options.uid_map, options.gid_map))
    kinds = tuple(options.namespaces)
    return PodNamespaces(path, kinds, options.hostname, dict(options.sysctls), options.shm_size, uids, gids)


def _pid(pod: _Pod, shim: int) -> int:
    """The process that the sandbox lives by: the PID namespace's init, else the shim."""
    return pod.init or shim


def _parent(cgroup: Cgroup) -> Cgroup:
    """The group above; none where that is the root of the hierarchy."""
    parents = {name: os.path.dirname(folder) for name, folder in cgroup.folders.items()}
    return Cgroup({name: folder for name, folder in parents.items() if not os.path.ismount(folder)})
