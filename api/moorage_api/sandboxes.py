"""Sandboxes: what containers of a pod share; records, and the controller that runs them
(`containerd.services.sandbox.v1`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.containers import Runtime
from moorage_api.idmap import IdMapping
from moorage_api.mounts import Mount
from moorage_api.types import Labels, TypedValue


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox's record; what its client needs besides goes into `extensions`."""

    id: str
    runtime: Runtime
    spec: TypedValue | None = None
    labels: Labels = field(default_factory=dict)
    extensions: Mapping[str, TypedValue] = field(default_factory=dict)
    sandboxer: str = ""
    created_at: int = 0
    updated_at: int = 0


@runtime_checkable
class SandboxStore(Protocol):
    """The sandbox records of one namespace. Thread-safe."""

    def get(self, id: str) -> Sandbox:
        """`NotFound`."""

    def list(self, filters: Sequence[str] = ()) -> list[Sandbox]:
        """Those that match any filter (fields: id, runtime.name, sandboxer, labels), by creation, then id."""

    def create(self, sandbox: Sandbox) -> Sandbox:
        """`AlreadyExists`, `InvalidArgument`."""

    def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """All mutable fields, or those named (`labels`, `labels.KEY`, `extensions`, `extensions.KEY`, `spec`,
        `runtime.options`). `NotFound`."""

    def delete(self, id: str) -> None:
        """`NotFound`."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What the shim makes for a pod before its first container; an unset namespace is the host's.

    `namespaces` names those to be made anew and pinned: any of `user`, `network`, `ipc`, `uts`, `pid`. Each appears as
    `<path>/ns/<user|net|ipc|uts|pid>` where `path` is `SandboxStatus.path`; a tmpfs for `/dev/shm` of `shm_size` bytes at
    `<path>/shm` when IPC is the pod's own and `shm_size` is not zero. A new network namespace has its loopback up.
    `cgroups_path` is for a process that a shim may have to keep for the pod.
    A user namespace, with the mappings `uids` and `gids`, owns all the others that are made.
    `netns` is the path of a network namespace that the client made, for shims that have to know it; `namespaces` does
    not name the network then. `rootfs` is what a shim that keeps a process or a machine for the pod runs it from.
    """

    id: str
    runtime: Runtime
    hostname: str = ""
    namespaces: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 64 << 20
    annotations: Mapping[str, str] = field(default_factory=dict)
    netns: str = ""
    cgroups_path: str = ""
    uids: IdMapping | None = None
    gids: IdMapping | None = None
    rootfs: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """A sandbox as its controller knows it, answered from memory. `state` is `ready` or `notready`."""

    id: str
    state: str
    pid: int
    path: str
    created_at: int
    exited_at: int = 0
    exit_status: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class SandboxMetrics:
    """`data` is a message of `io.containerd.cgroups`, or of the shim's own; None where nothing is measured: there is no
    container, or they have no control group in common. `at` is in nanoseconds since the epoch."""

    id: str
    at: int
    data: TypedValue | None


@runtime_checkable
class SandboxController(Protocol):
    """Runs the sandboxes of one namespace: a shim each, with the namespaces that the pod shares."""

    async def start(self, spec: SandboxSpec) -> SandboxStatus:
        """Start the shim and pin the namespaces. On any error nothing stays. `AlreadyExists`."""

    def status(self, id: str) -> SandboxStatus:
        """From memory; never waits. `NotFound`."""

    def list(self) -> list[SandboxStatus]:
        """From memory, by creation."""

    async def stop(self, id: str, timeout: float = 10.0) -> None:
        """Kill what runs in it, unpin its namespaces, end the shim (by force after `timeout` seconds). Idempotent:
        an unknown or stopped sandbox is no error."""

    async def shutdown(self, id: str) -> None:
        """Remove all that is left of it, so that the id may be used again. Idempotent."""

    async def wait(self, id: str) -> SandboxStatus:
        """Return when it is no longer ready. `NotFound`."""

    async def metrics(self, id: str) -> SandboxMetrics:
        """What the pod's containers use together, asked of the shim. `NotFound`, `FailedPrecondition` once it has
        stopped, `Unavailable`."""
