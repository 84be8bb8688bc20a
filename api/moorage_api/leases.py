"""Leases: what a client works on is not collected while its lease lives (`containerd.services.leases.v1`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.types import Labels


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease. `containerd.io/gc.expire` (RFC 3339) ends it; `containerd.io/gc.flat` keeps its resources only, not
    what they refer to."""

    id: str
    labels: Labels = field(default_factory=dict)
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """What a lease holds: `content` (a digest), `ingests` (a ref), `snapshots/NAME` (a key), `images` (a name)."""

    id: str
    type: str


@runtime_checkable
class LeaseManager(Protocol):
    """The leases of one namespace. Thread-safe."""

    def create(self, id: str = "", labels: Labels | None = None) -> Lease:
        """A new lease; an empty id gets a random one. `AlreadyExists`."""

    def delete(self, id: str, *, sync: bool = False) -> None:
        """End the lease; with `sync`, garbage has been collected when it returns. `NotFound`."""

    def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        """Those that match any filter (fields: id, labels), by id."""

    def add_resource(self, id: str, resource: Resource) -> None:
        """`NotFound` for the lease, `InvalidArgument` for the type. Adding twice is harmless."""

    def delete_resource(self, id: str, resource: Resource) -> None:
        """`NotFound` for the lease."""

    def resources(self, id: str) -> Sequence[Resource]:
        """`NotFound`."""
