"""Garbage: what is on disk, who keeps it, and what a collection would remove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, order=True)
class Keeper:
    """Whom something is kept for. `kind` is `image`, `container`, `sandbox`, `lease`, or `content`, `snapshot`, `ingest` for
    what keeps itself: by the label `containerd.io/gc.root`, or because it is being written."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Holding:
    """Something on disk. `kind` is `content`, `snapshot` or `ingest`; `store` the snapshotter's name, empty for content.

    `name` is a digest, a snapshot's key or an ingest's ref, as the first namespace that has it says; the backend's own where
    none has. `size` counts bytes on disk. Without keepers it is garbage.
    """

    kind: str
    store: str
    name: str
    size: int
    keepers: tuple[Keeper, ...] = ()


@dataclass(frozen=True, slots=True)
class Doomed:
    """What a collection would remove, and why. `kind` is `content`, `snapshot`, `ingest`, `image` or `lease`; `namespace` is
    empty for what no namespace has a record of. `size` is how many bytes on disk go with it: zero where something else
    keeps them."""

    kind: str
    namespace: str
    name: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed: records by kind, bytes of blobs, and how long it took (seconds)."""

    records: Mapping[str, int] = field(default_factory=dict)
    blobs: int = 0
    blob_bytes: int = 0
    ingests: int = 0
    snapshots: int = 0
    seconds: float = 0.0


@runtime_checkable
class Garbage(Protocol):
    """Questions to the collector. Thread-safe; each is answered from one state of the database."""

    def holdings(self, namespace: str = "") -> list[Holding]:
        """What is on disk, largest first. With a namespace, only what that has, and who keeps it there."""

    def plan(self) -> list[Doomed]:
        """What a collection would remove now; it removes nothing."""

    def collect(self) -> Collected:
        """Collect now; what is reported is gone when this returns."""
