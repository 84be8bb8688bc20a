"""Typed stubs of the services that a shim offers, over any connection that carries calls.

    task = TaskStub(client, namespace, version=2)
    answer = await task.State(pb.StateRequest(id="web"), timeout=2)

The messages of the task services v2 and v3 are the same on the wire; only the service's name differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, overload

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from moorage_api.errors import DataLoss
from moorage_api.wire import moorage_shim_pb2, runtime_sandbox_pb2, shim_v2_pb2, shim_v3_pb2

NAMESPACE_METADATA = "containerd-namespace-ttrpc"

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Connection(Protocol):
    """What carries calls: `TtrpcClient`."""

    def submit(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> asyncio.Future[bytes]: ...

    def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None,
        metadata: dict[str, str] | None = None,
    ) -> Awaitable[bytes]: ...


@dataclass(frozen=True, slots=True)
class BoundRpc(Generic[Q, R]):
    """One method of one shim. `timeout` is in seconds; None waits as long as the connection lasts."""

    stub: Stub
    method: str
    answer: type[R]

    async def __call__(self, request: Q, *, timeout: float | None) -> R:
        """`DeadlineExceeded`, `Unavailable`, or the error that the shim answers."""
        payload = await self.stub.connection.call(
            self.stub.service, self.method, request.SerializeToString(), timeout=timeout, metadata=self.stub.metadata
        )
        return self.parse(payload)

    def submit(self, request: Q) -> asyncio.Future[bytes]:
        """Call without a deadline; the future gets the answer's bytes, for `parse`."""
        return self.stub.connection.submit(
            self.stub.service, self.method, request.SerializeToString(), metadata=self.stub.metadata
        )

    def parse(self, payload: bytes) -> R:
        try:
            return self.answer.FromString(payload)
        except DecodeError as error:
            raise DataLoss(f"answer of {self.stub.service}.{self.method} is no {self.answer.__name__}") from error


class Rpc(Generic[Q, R]):
    """Declares a method of a stub by the types of its request and answer; its name is the attribute's."""

    def __init__(self, request: type[Q], answer: type[R]) -> None:
        self.request = request
        self.answer = answer
        self.name = ""

    def __set_name__(self, owner: type[Stub], name: str) -> None:
        method = owner.descriptor.methods_by_name[name]
        if method.input_type.name != self.request.DESCRIPTOR.name:
            raise TypeError(f"{method.full_name} takes {method.input_type.name}")
        self.name = name

    @overload
    def __get__(self, stub: None, owner: type[Stub]) -> Rpc[Q, R]: ...

    @overload
    def __get__(self, stub: Stub, owner: type[Stub]) -> BoundRpc[Q, R]: ...

    def __get__(self, stub: Stub | None, owner: type[Stub]) -> Rpc[Q, R] | BoundRpc[Q, R]:
        return self if stub is None else BoundRpc(stub, self.name, self.answer)


class Stub:
    """A service of a shim, spoken to on behalf of one namespace."""

    descriptor: ClassVar[ServiceDescriptor]

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.connection = connection
        self.metadata = {NAMESPACE_METADATA: namespace}
        self.service = self.descriptor.full_name


class TaskStub(Stub):
    """`containerd.task.v2.Task` or `containerd.task.v3.Task`."""

    descriptor = shim_v3_pb2.DESCRIPTOR.services_by_name["Task"]

    State = Rpc(shim_v3_pb2.StateRequest, shim_v3_pb2.StateResponse)
    Create = Rpc(shim_v3_pb2.CreateTaskRequest, shim_v3_pb2.CreateTaskResponse)
    Start = Rpc(shim_v3_pb2.StartRequest, shim_v3_pb2.StartResponse)
    Delete = Rpc(shim_v3_pb2.DeleteRequest, shim_v3_pb2.DeleteResponse)
    Pids = Rpc(shim_v3_pb2.PidsRequest, shim_v3_pb2.PidsResponse)
    Pause = Rpc(shim_v3_pb2.PauseRequest, Empty)
    Resume = Rpc(shim_v3_pb2.ResumeRequest, Empty)
    Checkpoint = Rpc(shim_v3_pb2.CheckpointTaskRequest, Empty)
    Kill = Rpc(shim_v3_pb2.KillRequest, Empty)
    Exec = Rpc(shim_v3_pb2.ExecProcessRequest, Empty)
    ResizePty = Rpc(shim_v3_pb2.ResizePtyRequest, Empty)
    CloseIO = Rpc(shim_v3_pb2.CloseIORequest, Empty)
    Update = Rpc(shim_v3_pb2.UpdateTaskRequest, Empty)
    Wait = Rpc(shim_v3_pb2.WaitRequest, shim_v3_pb2.WaitResponse)
    Stats = Rpc(shim_v3_pb2.StatsRequest, shim_v3_pb2.StatsResponse)
    Connect = Rpc(shim_v3_pb2.ConnectRequest, shim_v3_pb2.ConnectResponse)
    Shutdown = Rpc(shim_v3_pb2.ShutdownRequest, Empty)

    def __init__(self, connection: Connection, namespace: str, version: int = 3) -> None:
        super().__init__(connection, namespace)
        if version < 3:
            self.service = shim_v2_pb2.DESCRIPTOR.services_by_name["Task"].full_name


class SandboxStub(Stub):
    """`containerd.runtime.sandbox.v1.Sandbox`."""

    descriptor = runtime_sandbox_pb2.DESCRIPTOR.services_by_name["Sandbox"]

    CreateSandbox = Rpc(runtime_sandbox_pb2.CreateSandboxRequest, runtime_sandbox_pb2.CreateSandboxResponse)
    StartSandbox = Rpc(runtime_sandbox_pb2.StartSandboxRequest, runtime_sandbox_pb2.StartSandboxResponse)
    Platform = Rpc(runtime_sandbox_pb2.PlatformRequest, runtime_sandbox_pb2.PlatformResponse)
    StopSandbox = Rpc(runtime_sandbox_pb2.StopSandboxRequest, runtime_sandbox_pb2.StopSandboxResponse)
    WaitSandbox = Rpc(runtime_sandbox_pb2.WaitSandboxRequest, runtime_sandbox_pb2.WaitSandboxResponse)
    SandboxStatus = Rpc(runtime_sandbox_pb2.SandboxStatusRequest, runtime_sandbox_pb2.SandboxStatusResponse)
    ShutdownSandbox = Rpc(runtime_sandbox_pb2.ShutdownSandboxRequest, runtime_sandbox_pb2.ShutdownSandboxResponse)
    SandboxMetrics = Rpc(runtime_sandbox_pb2.SandboxMetricsRequest, runtime_sandbox_pb2.SandboxMetricsResponse)


class LogsStub(Stub):
    """`moorage.shim.v1.Logs`, which only our own shim has."""

    descriptor = moorage_shim_pb2.DESCRIPTOR.services_by_name["Logs"]

    Reopen = Rpc(moorage_shim_pb2.ReopenRequest, Empty)


class StreamsStub(Stub):
    """`moorage.shim.v1.Streams`, which only our own shim has."""

    descriptor = moorage_shim_pb2.DESCRIPTOR.services_by_name["Streams"]

    Attach = Rpc(moorage_shim_pb2.AttachRequest, Empty)
