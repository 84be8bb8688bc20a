"""Pods and containers as the plugin holds them in memory; lists and status answer from here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from moorage_api.containers import Runtime
from moorage_api.wire import cri_pb2
from moorage_cri.cni.network import PodNetwork
from moorage_cri.config import OWN_SHIM
from moorage_cri.sandbox.userns import UserNamespace, of_pod

COMPLETED = "Completed"
ERROR = "Error"
OOM_KILLED = "OOMKilled"
START_ERROR = "StartError"
UNKNOWN = "Unknown"
# The code of a container whose own is not known, and of one that could not be started (as containerd's).
UNKNOWN_EXIT_CODE = 255
START_ERROR_EXIT_CODE = 128


# What a list shows of a pod or a container: its state, and the serialised answer of a list that shows only this one in
# that state. Nothing else that lists show ever changes.
Listed = tuple[int, bytes]
NOT_LISTED: Listed = (-1, b"")


@cache
def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(slots=True, eq=False)
class Sandbox:
    """A pod. Whether it is ready is for the sandbox controller to say, at any moment and from memory.

    `path` is where the shim pins its namespaces, `netns` its network namespace (empty: the host's); `boot` is the id
    of the boot in which it was made. `lock` is held by whoever makes, stops or removes it.
    """

    id: str
    name: str
    config: cri_pb2.PodSandboxConfig
    handler: str
    runtime: Runtime
    created_at: int
    boot: str = field(default_factory=boot_id)
    path: str = ""
    netns: str = ""
    network: PodNetwork | None = None
    listed: Listed = NOT_LISTED
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def namespace_options(self) -> cri_pb2.NamespaceOption:
        return self.config.linux.security_context.namespace_options

    @property
    def own_shim(self) -> bool:
        """Whether its shim is Moorage's, which does what others do not: it writes logs, and lets clients attach."""
        return self.runtime.name in OWN_SHIM

    @property
    def user_namespace(self) -> UserNamespace | None:
        """The pod's own; None where its ids are the host's."""
        return of_pod(self.namespace_options)

    @property
    def host_network(self) -> bool:
        return self.namespace_options.network == cri_pb2.NODE


@dataclass(slots=True)
class Run:
    """What became of a container's one run; times are in nanoseconds since 1970, zero for what has not happened."""

    pid: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(slots=True, eq=False)
class Container:
    """A container of a pod. `stopped` is set once it has run and ended; `signalled` once its stop signal was sent; `aftermath`
    is what goes on after its start and its end, one after the other: each goes to disk, and then its task is deleted.
    `process` is the OCI process of its specification, as JSON, once a command was run in it.
    `restored`: its processes come from a checkpoint."""

    id: str
    name: str
    sandbox_id: str
    config: cri_pb2.ContainerConfig
    image_id: str
    image_name: str
    log_path: str
    stop_signal: str
    snapshotter: str
    created_at: int
    user: cri_pb2.LinuxContainerUser = field(default_factory=cri_pb2.LinuxContainerUser)
    run: Run = field(default_factory=Run)
    restored: bool = False
    process: bytes = b""
    removing: bool = False
    signalled: bool = False
    listed: Listed = NOT_LISTED
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    aftermath: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def state(self) -> cri_pb2.ContainerState.ValueType:
        if self.run.finished_at:
            return cri_pb2.CONTAINER_EXITED
        if self.run.started_at:
            return cri_pb2.CONTAINER_RUNNING
        return cri_pb2.CONTAINER_CREATED

    @property
    def running(self) -> bool:
        return self.state == cri_pb2.CONTAINER_RUNNING
