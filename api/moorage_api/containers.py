"""Containers: records of what may run, never a running process (`containerd.services.containers.v1`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.types import Labels, TypedValue


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which shim runs the container (`io.containerd.runc.v2`), and what it is told."""

    name: str
    options: TypedValue | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A container's record; `spec` is an OCI runtime configuration as JSON inside an Any."""

    id: str
    runtime: Runtime
    spec: TypedValue | None = None
    image: str = ""
    snapshotter: str = ""
    snapshot_key: str = ""
    labels: Labels = field(default_factory=dict)
    extensions: Mapping[str, TypedValue] = field(default_factory=dict)
    sandbox_id: str = ""
    created_at: int = 0
    updated_at: int = 0


@runtime_checkable
class ContainerStore(Protocol):
    """The containers of one namespace. Thread-safe. Changes are published (`/containers/create`, `update`, `delete`)."""

    def get(self, id: str) -> Container:
        """`NotFound`."""

    def list(self, filters: Sequence[str] = ()) -> list[Container]:
        """Those that match any filter (fields: id, image, runtime.name, labels, sandbox_id), by creation, then id."""

    def create(self, container: Container) -> Container:
        """`AlreadyExists` for the id, or for the value of the label `moorage.io/name`, which is unique in a namespace."""

    def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """All mutable fields, or those named (`labels`, `labels.KEY`, `spec`, `extensions`, `extensions.KEY`, `image`,
        `snapshot_key`, `runtime.options`). `NotFound`; a change of what is fixed (runtime.name, snapshotter):
        `InvalidArgument`."""

    def delete(self, id: str) -> None:
        """`NotFound`."""
