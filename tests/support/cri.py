"""A client of any CRI runtime, as a kubelet is one: made from the project's own protocol files."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from moorage_api.wire import cri_pb2

_SERVICES = ("RuntimeService", "ImageService")


class CriClient:
    """Every call of both services as a method: `client.Version()`, `client.StopContainer(container_id=…, timeout=1)`.

    Errors are `grpc.RpcError`. `timeout` is each call's deadline in seconds; `deadline=` sets that of one call.
    """

    def __init__(self, address: str, version: str = "v1", timeout: float = 60) -> None:
        # As much as a kubelet takes.
        options = [("grpc.max_receive_message_length", 16 << 20)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options)
        self._timeout = timeout
        self._methods: dict[str, tuple[type[Message], Any]] = {}
        for name in _SERVICES:
            for method in cri_pb2.DESCRIPTOR.services_by_name[name].methods:
                make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
                request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
                call = make(
                    f"/runtime.{version}.{name}/{method.name}",
                    request_serializer=request.SerializeToString,
                    response_deserializer=response.FromString,
                )
                self._methods[method.name] = request, call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._methods:
            raise AttributeError(name)
        request, call = self._methods[name]

        def invoke(message: Message | None = None, *, deadline: float | None = None, **fields: Any) -> Any:
            return call(message if message is not None else request(**fields), timeout=deadline or self._timeout)

        return invoke

    def begin(self, name: str, **fields: Any) -> Any:
        """Start a call; its `result()` waits for the answer, its `cancel()` gives it up."""
        request, call = self._methods[name]
        return call.future(request(**fields), timeout=self._timeout)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_pod(self, config: cri_pb2.PodSandboxConfig, handler: str = "") -> str:
        """Make a pod; returns its id."""
        id: str = self.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
        return id

    def create(self, pod: str, pod_config: cri_pb2.PodSandboxConfig, config: cri_pb2.ContainerConfig) -> str:
        """Make a container; returns its id."""
        id: str = self.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=pod_config).container_id
        return id

    def start(self, pod: str, pod_config: cri_pb2.PodSandboxConfig, config: cri_pb2.ContainerConfig) -> str:
        """Make a container and start it; returns its id."""
        id = self.create(pod, pod_config, config)
        self.StartContainer(container_id=id)
        return id

    def status(self, container: str) -> cri_pb2.ContainerStatus:
        found: cri_pb2.ContainerStatus = self.ContainerStatus(container_id=container).status
        return found

    def stop(self, container: str, grace: int = 0) -> None:
        """StopContainer with a grace period in seconds."""
        self.StopContainer(container_id=container, timeout=grace, deadline=grace + 60)

    def execute(self, container: str, *command: str, timeout: int = 10) -> cri_pb2.ExecSyncResponse:
        """ExecSync; `timeout` is the command's."""
        found: cri_pb2.ExecSyncResponse = self.ExecSync(
            container_id=container, cmd=command, timeout=timeout, deadline=timeout + 30
        )
        return found

    def stop_pod(self, pod: str) -> None:
        self.StopPodSandbox(pod_sandbox_id=pod)

    def remove_pod(self, pod: str) -> None:
        self.RemovePodSandbox(pod_sandbox_id=pod)

    def wait_ready(self, seconds: float = 30) -> None:
        """Return when the runtime says that it and its network are ready."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if all(condition.status for condition in self.Status().status.conditions[:2]):
                    return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"the runtime is not ready: {self.Status()}")
            time.sleep(0.05)

    def remove_all(self) -> None:
        """Stop and remove every pod with its containers."""
        for pod in self.ListPodSandbox().items:
            self.stop_pod(pod.id)
            self.remove_pod(pod.id)


def pod_config(
    name: str = "",
    *,
    log_directory: str | Path = "",
    network: int = cri_pb2.POD,
    pid: int = cri_pb2.CONTAINER,
    ipc: int = cri_pb2.POD,
    ports: Sequence[cri_pb2.PortMapping] = (),
    host_port: int = 0,
    labels: Mapping[str, str] | None = None,
    hostname: str | None = None,
    **fields: Any,
) -> cri_pb2.PodSandboxConfig:
    """A pod as a kubelet would ask for it; other fields by name. `host_port` leads to port 80 of the pod."""
    if host_port:
        ports = [*ports, cri_pb2.PortMapping(container_port=80, host_port=host_port)]
    name = name or f"pod-{uuid.uuid4().hex[:8]}"
    options = cri_pb2.NamespaceOption(network=network, pid=pid, ipc=ipc)  # type: ignore[arg-type]
    return cri_pb2.PodSandboxConfig(
        metadata=cri_pb2.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
        hostname=name if hostname is None else hostname,
        log_directory=str(log_directory),
        port_mappings=ports,
        labels=labels or {},
        linux=cri_pb2.LinuxPodSandboxConfig(
            security_context=cri_pb2.LinuxSandboxSecurityContext(namespace_options=options)
        ),
        **fields,
    )


def container_config(
    image: str,
    *command: str,
    name: str = "main",
    log_path: str = "",
    pid: int = cri_pb2.CONTAINER,
    security: cri_pb2.LinuxContainerSecurityContext | None = None,
    resources: cri_pb2.LinuxContainerResources | None = None,
    **fields: Any,
) -> cri_pb2.ContainerConfig:
    """A container as a kubelet would ask for it; other fields by name."""
    context = security or cri_pb2.LinuxContainerSecurityContext()
    if not context.HasField("namespace_options"):
        context.namespace_options.pid = pid  # type: ignore[assignment]
    return cri_pb2.ContainerConfig(
        metadata=cri_pb2.ContainerMetadata(name=name),
        image=cri_pb2.ImageSpec(image=image),
        command=command,
        log_path=log_path,
        linux=cri_pb2.LinuxContainerConfig(security_context=context, resources=resources),
        **fields,
    )
