"""Snapshots: file systems in layers, handed out as mounts.

Source of the behaviour: containerd's snapshots service (`containerd.services.snapshots.v1`).

A snapshot is *active* (writable, made by `prepare`), a *view* (read-only, made by `view`) or *committed* (immutable,
made by `commit` from an active one; the only kind that may be a parent). Keys of active snapshots and views and names
of committed ones share one space of names.

What must hold for every method, beyond its own docstring:

- after success, a power cut does not lose it: the record is durable, and a committed snapshot's files are on disk. What is
  in an active snapshot is not promised before its commit, and may be nothing again;
- after an error, it is as if the call had not been made;
- after a crash in the middle, the next start sees either of the two, and `cleanup` removes what is left over.

Labels come in from every client alike: `containerd.io/snapshot.ref` (the chain ID that an unpacker wants to commit),
`containerd.io/snapshot/uidmapping` and `/gidmapping` (ID-mapped use), `containerd.io/snapshot/cri.*` (where a layer that is
pulled comes from), `containerd.io/gc.*` (garbage collection).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from moorage_api.mounts import Mount
from moorage_api.types import Labels


class Kind(Enum):
    """The kinds of snapshot; values are those of the filter grammar and of `ctr snapshots info`."""

    VIEW = "View"
    ACTIVE = "Active"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class Info:
    """A snapshot's record. `name` is its key while active; `parent` is empty at the bottom."""

    name: str
    kind: Kind
    parent: str = ""
    labels: Labels = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot itself holds, without its parents: bytes on disk as `du` counts them, and inodes."""

    size: int
    inodes: int


@runtime_checkable
class Snapshotter(Protocol):
    """A tree of snapshots. Thread-safe; knows nothing of namespaces, gRPC or the daemon's database."""

    def stat(self, key: str) -> Info:
        """The record of a snapshot of any kind. `NotFound`."""

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Change labels: all, or those named (`labels`, `labels.KEY`). Any other path: `InvalidArgument`. `NotFound`.

        A label given empty is removed.
        """

    def usage(self, key: str) -> Usage:
        """Measured now for an active snapshot, remembered from its commit for a committed one. `NotFound`."""

    def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or a view, the same each time. `NotFound`; committed: `FailedPrecondition`."""

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        """Make an active snapshot on `parent` (committed) or on nothing.

        `AlreadyExists` when the key is taken, `NotFound` for a parent that is not there, `InvalidArgument` for one
        that is not committed. A remote snapshotter that already has the target of `containerd.io/snapshot.ref`
        commits it itself and raises `AlreadyExists`: the caller then finds it by `stat`.
        """

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        """Make a read-only snapshot of `parent`. Errors as `prepare`."""

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        """Turn the active snapshot `key` into the committed `name`; `key` is gone after it. Files are synced first.

        `AlreadyExists` when the name is taken (the active one stays), `NotFound`, `FailedPrecondition` when not active.

        `parent` puts a snapshot that was prepared on nothing on the committed `parent`, so that layers can be unpacked
        side by side. A snapshotter that can shows the capability `rebase`; one that cannot need not have the argument,
        which callers leave out where it is empty. A parent other than the one it stands on: `InvalidArgument`.
        """

    def remove(self, key: str) -> None:
        """Remove a snapshot that nothing stands on. `NotFound`; with children: `FailedPrecondition`."""

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """All snapshots that match any of the filters (fields: name, parent, kind, labels), by name."""

    def cleanup(self) -> None:
        """Delete what removed or half-made snapshots left on disk. Safe at any time, and after any crash."""

    def close(self) -> None:
        """Release files and locks; mounts in use stay as they are."""


@runtime_checkable
class Rebases(Protocol):
    """What a snapshotter says of itself that keeps a snapshot's own files apart from its parent's.

    Where `rebases` is true, the layers of an image can be extracted side by side, each into a snapshot made on nothing,
    with deletions as overlayfs keeps them, and are put on one another by their commits.
    """

    @property
    def rebases(self) -> bool: ...


def rebases(snapshotter: Snapshotter) -> bool:
    """Whether `commit` can give a snapshot its parent. A snapshotter that does not say, cannot."""
    return isinstance(snapshotter, Rebases) and snapshotter.rebases


@runtime_checkable
class RemovesMany(Protocol):
    """What a snapshotter may do beside its contract: remove many snapshots with one write to disk, as the garbage
    collector wants it, rather than with one each."""

    def remove_all(self, keys: Sequence[str]) -> list[str]:
        """Remove those of `keys` that nothing stands on, or only what comes before them in `keys`; returns those that are
        gone. The others are passed over: they are removed one by one, or found to be in use. On an error none is gone."""


class Prompt(Protocol):
    """What a snapshotter says of itself that keeps its records in memory.

    Where `prompt` is true, `mounts`, and `usage` of what is committed, neither wait nor ask the disk: the daemon calls them
    where a wait would hold up others, rather than in a thread.
    """

    @property
    def prompt(self) -> bool: ...


def is_prompt(snapshotter: Snapshotter) -> bool:
    """Whether `mounts` answers from memory. A snapshotter that does not say may take its time."""
    # Asked for each call: isinstance would take longer than the answer that it is about.
    return bool(getattr(snapshotter, "prompt", False))
