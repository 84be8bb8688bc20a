"""Pods for shims that know tasks alone, as most do that are not Moorage's: their first task keeps the pod's namespaces.

The sandbox service (`containerd.runtime.sandbox.v1.Sandbox`) is answered here, with calls of the shim's task service. The task is
a program that does nothing and reaps what it is given; its namespaces are pinned as Moorage's own shim pins a pod's, so that
nothing else has to know of the difference. The shim groups tasks by the annotations of the pod.
"""

from __future__ import annotations

import asyncio
import os
import platform
import struct
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, Unimplemented
from moorage_api.linux import pins
from moorage_api.oci import spec as oci
from moorage_api.oci.spec import Spec
from moorage_api.wire import runtime_sandbox_pb2 as pb
from moorage_api.wire import shim_v3_pb2 as tasks
from moorage_api.wire.moorage_shim_pb2 import SandboxOptions
from mooraged.runtime.bundle import CONFIG, ROOTFS
from mooraged.runtime.stubs import TaskStub

_SERVICE = pb.DESCRIPTOR.services_by_name["Sandbox"]
_PROGRAM = "pause"
_KILL = 9
_READY = "SANDBOX_READY"
# The namespaces that the program gets, and their files; the network comes with the pod.
_FILES = {"ipc": "ipc", "uts": "uts", "pid": "pid"}

# rt_sigaction(SIGCHLD, {SIG_IGN, SA_NOCLDWAIT}, NULL, 8), then pause() for ever: children of an init that ends are reaped by
# the kernel. The number is the machine's in ELF (elf.h).
_SIGACTION = struct.pack("<QQQQ", 1, 2, 0, 0)
_CODE = {
    "x86_64": (
        62,
        "b80d000000bf11000000488d351700000031d241ba080000000f05b8220000000f05ebf790909090",
    ),
    "aarch64": (
        183,
        (
            "c81080d2200280d281010010020080d2030180d2010000d4"
            "280980d2000080d2010080d2020080d2030080d2040080d2010000d4f9ffff17"
        ),
    ),
}
_BASE = 0x400000
_HEADERS = 64 + 56


def program(machine: str) -> bytes:
    """The program as a static ELF executable. `FailedPrecondition` for a machine that there is none for."""
    if machine not in _CODE:
        raise FailedPrecondition(
            f"shims without sandboxes need a program that does nothing: there is none for {machine}"
        )
    number, text = _CODE[machine]
    code = bytes.fromhex(text) + _SIGACTION
    size = _HEADERS + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000) + code


def is_kept(bundle: Path) -> bool:
    """Whether the sandbox of a bundle is kept by a task."""
    return (bundle / ROOTFS / _PROGRAM).exists()


class PauseConnection:
    """A `Connection` that answers the sandbox service. `options` are those of the runtime, for the task."""

    def __init__(self, task: TaskStub, options: AnyMessage | None = None) -> None:
        self._task = task
        self._options = options
        self._pod: tuple[str, SandboxOptions] | None = None

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None,
        metadata: dict[str, str] | None = None,
    ) -> bytes:
        """One call of the service; `timeout` is for each step of it, in seconds."""
        answer = getattr(self, f"_{method}", None)
        if answer is None:
            raise Unimplemented(f"{service}.{method} of a sandbox that a task keeps")
        request = getattr(pb, _SERVICE.methods_by_name[method].input_type.name).FromString(payload)
        made: Message = await answer(request, timeout)
        return made.SerializeToString()

    def submit(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(self.call(service, method, payload, timeout=timeout))

    async def _CreateSandbox(self, request: pb.CreateSandboxRequest, timeout: float | None) -> Message:
        options = SandboxOptions.FromString(request.options.value)
        await asyncio.to_thread(_lay_out, request, options)
        self._pod = (request.bundle_path, options)
        create = tasks.CreateTaskRequest(id=request.sandbox_id, bundle=request.bundle_path, options=self._options)
        await self._task.Create(create, timeout=timeout)
        return pb.CreateSandboxResponse()

    async def _StartSandbox(self, request: pb.StartSandboxRequest, timeout: float | None) -> Message:
        started = await self._task.Start(tasks.StartRequest(id=request.sandbox_id), timeout=timeout)
        if self._pod is not None:
            await asyncio.to_thread(_pin, *self._pod, started.pid)
        answer = pb.StartSandboxResponse(pid=started.pid)
        answer.created_at.GetCurrentTime()
        return answer

    async def _WaitSandbox(self, request: pb.WaitSandboxRequest, timeout: float | None) -> Message:
        ended = await self._task.Wait(tasks.WaitRequest(id=request.sandbox_id), timeout=timeout)
        return pb.WaitSandboxResponse(exit_status=ended.exit_status, exited_at=ended.exited_at)

    async def _SandboxStatus(self, request: pb.SandboxStatusRequest, timeout: float | None) -> Message:
        state = await self._task.State(tasks.StateRequest(id=request.sandbox_id), timeout=timeout)
        return pb.SandboxStatusResponse(sandbox_id=request.sandbox_id, pid=state.pid, state=_READY)

    async def _StopSandbox(self, request: pb.StopSandboxRequest, timeout: float | None) -> Message:
        """The kernel ends what is in a PID namespace of the pod's with its first process."""
        try:
            kill = tasks.KillRequest(id=request.sandbox_id, signal=_KILL, all=True)
            await self._task.Kill(kill, timeout=timeout)
            await self._task.Wait(tasks.WaitRequest(id=request.sandbox_id), timeout=timeout)
        except NotFound:
            # It has ended by itself.
            return pb.StopSandboxResponse()
        return pb.StopSandboxResponse()

    async def _ShutdownSandbox(self, request: pb.ShutdownSandboxRequest, timeout: float | None) -> Message:
        try:
            await self._task.Delete(tasks.DeleteRequest(id=request.sandbox_id), timeout=timeout)
        except MoorageError:
            # What is left is the launcher's to delete.
            return pb.ShutdownSandboxResponse()
        return pb.ShutdownSandboxResponse()


def _lay_out(request: pb.CreateSandboxRequest, options: SandboxOptions) -> None:
    """Write the program and its configuration into the sandbox's bundle, and mount the pod's shared memory."""
    bundle = Path(request.bundle_path)
    path = bundle / ROOTFS / _PROGRAM
    path.write_bytes(program(platform.machine()))
    path.chmod(0o755)
    spec = _spec(request, options)
    (bundle / CONFIG).write_bytes(oci.encode(spec).value)
    if options.shm_size and "ipc" in options.namespaces:
        pins.mount_shm(options.path, options.shm_size)


def _spec(request: pb.CreateSandboxRequest, options: SandboxOptions) -> Spec:
    hostname = options.hostname if "uts" in options.namespaces else ""
    spec = oci.default_spec(args=[f"/{_PROGRAM}"], cgroups_path=options.cgroups_path, hostname=hostname)
    oci.remove_mounts(spec, "/run", "/dev/shm")
    if "ipc" not in options.namespaces:
        oci.remove_mounts(spec, "/dev/mqueue")
    spec["process"].pop("rlimits")
    spec["root"]["readonly"] = True
    for kind in ("ipc", "uts"):
        if kind not in options.namespaces:
            oci.host_namespace(spec, kind)
    if request.netns_path:
        oci.set_namespace(spec, "network", request.netns_path)
    else:
        oci.host_namespace(spec, "network")
        _bind_sys(spec)
    if options.sysctls:
        spec["linux"]["sysctl"] = dict(options.sysctls)
    spec["annotations"] = dict(request.annotations)
    return spec


def _bind_sys(spec: dict[str, Any]) -> None:
    """sysfs shows the network of who mounts it, and may only be mounted by its owner."""
    oci.add_mount(spec, "/sys", "/sys", options=("rbind", "rslave", "nosuid", "noexec", "nodev", "ro"))


def _pin(path: str, options: SandboxOptions, pid: int) -> None:
    folder = pins.make_folder(options.path or path)
    for kind, file in _FILES.items():
        if kind in options.namespaces:
            pins.pin(f"/proc/{pid}/ns/{file}", os.path.join(folder, file))
