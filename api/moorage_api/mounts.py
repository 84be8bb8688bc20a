"""A mount as snapshotters return it and shims perform it, and mounts that the daemon performs for a client
(`containerd.services.mounts.v1`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from moorage_api.types import Labels


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, in `fstab` terms; `options` are passed as given (`ro`, `rbind`, `lowerdir=…`).

    `target` is relative to the root file system that the mounts build together; empty for the root itself.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActiveMount:
    """A mount that was performed: where, and when in nanoseconds."""

    mount: Mount
    mount_point: str
    mounted_at: int


@dataclass(frozen=True, slots=True)
class Activation:
    """Mounts under one name: `active` are done, `system` are left for the client to do on top of them."""

    name: str
    active: tuple[ActiveMount, ...] = ()
    system: tuple[Mount, ...] = ()
    labels: Labels = field(default_factory=dict)


class MountManager(Protocol):
    """Performs mounts that depend on each other, and remembers them by namespace and name until they are deactivated
    or the machine restarts. Thread-safe.

    A mount's type may have transformers before it: `format/TYPE` fills in `{{ source N }}`, `{{ target N }}`,
    `{{ mount N }}` and `{{ overlay N M }}` from the mounts before it, `mkdir/TYPE` makes the folders that its options
    `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]` name, below the daemon's root.
    """

    def activate(
        self, namespace: str, name: str, mounts: Sequence[Mount], labels: Labels, *, temporary: bool = False
    ) -> Activation:
        """Perform what a client cannot, all or nothing; with `temporary` all of the mounts, and `system` is then a bind
        mount of the result. `AlreadyExists`, `InvalidArgument`, `FailedPrecondition` where a mount fails;
        `Unimplemented` where there is nothing that a client cannot do itself."""

    def deactivate(self, namespace: str, name: str) -> None:
        """Unmount, last first, and forget. `NotFound`; `FailedPrecondition` where a mount is in use."""

    def info(self, namespace: str, name: str) -> Activation:
        """`NotFound`."""

    def update(self, namespace: str, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        """Change the labels, all or those named. `NotFound`, `InvalidArgument`."""

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[Activation]:
        """Those that match any filter (fields: name, labels), by name."""
