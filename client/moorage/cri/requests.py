"""Pods and containers as a kubelet would ask for them, from the few things that differ."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage_api.wire import cri_pb2 as v1


def pod_config(
    name: str = "",
    *,
    namespace: str = "default",
    log_directory: str | Path = "",
    network: int = v1.POD,
    pid: int = v1.CONTAINER,
    ipc: int = v1.POD,
    ports: Sequence[v1.PortMapping] = (),
    host_port: int = 0,
    labels: Mapping[str, str] | None = None,
    hostname: str | None = None,
    **fields: Any,
) -> v1.PodSandboxConfig:
    """A pod. Without a name it gets one of its own; its name is its host name unless that is given or the host's.

    `network`, `pid` and `ipc` are namespace modes (`v1.POD`, `v1.CONTAINER`, `v1.NODE`); `host_port` is short for a
    mapping of that port of the host to port 80 of the pod; all other fields of the message go by their names.
    """
    if host_port:
        ports = [*ports, v1.PortMapping(container_port=80, host_port=host_port)]
    name = name or f"pod-{uuid.uuid4().hex[:8]}"
    if hostname is None:
        hostname = "" if network == v1.NODE else name
    options = v1.NamespaceOption(network=network, pid=pid, ipc=ipc)  # type: ignore[arg-type]
    return v1.PodSandboxConfig(
        metadata=v1.PodSandboxMetadata(name=name, namespace=namespace, uid=f"uid-{name}"),
        hostname=hostname,
        log_directory=str(log_directory),
        port_mappings=ports,
        labels=labels or {},
        linux=v1.LinuxPodSandboxConfig(security_context=v1.LinuxSandboxSecurityContext(namespace_options=options)),
        **fields,
    )


def container_config(
    image: str,
    *command: str,
    name: str = "main",
    log_path: str = "",
    pid: int = v1.CONTAINER,
    security: v1.LinuxContainerSecurityContext | None = None,
    resources: v1.LinuxContainerResources | None = None,
    **fields: Any,
) -> v1.ContainerConfig:
    """A container that runs `command`, or what its image says. `log_path` is relative to the pod's `log_directory`;
    all other fields of the message go by their names."""
    context = security or v1.LinuxContainerSecurityContext()
    if not context.HasField("namespace_options"):
        context.namespace_options.pid = pid  # type: ignore[assignment]
    return v1.ContainerConfig(
        metadata=v1.ContainerMetadata(name=name),
        image=v1.ImageSpec(image=image),
        command=command,
        log_path=log_path,
        linux=v1.LinuxContainerConfig(security_context=context, resources=resources),
        **fields,
    )


def stream_request(
    container: str, command: Sequence[str], *, stdin: bool, tty: bool, stdout: bool = True, stderr: bool = True
) -> v1.ExecRequest:
    """A request for Exec. With a terminal, output and errors are one stream."""
    return v1.ExecRequest(
        container_id=container, cmd=command, stdin=stdin, tty=tty, stdout=stdout, stderr=stderr and not tty
    )
