"""Differ: layers in and out of snapshots (`containerd.services.diff.v1`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from moorage_api.content import ContentStore
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor, Labels


@runtime_checkable
class Differ(Protocol):
    """Applies layer blobs to mounts and makes blobs of differences. Thread-safe; blocks its caller, not the daemon."""

    def apply(
        self, content: ContentStore, layer: Descriptor, mounts: Sequence[Mount], *, sync: bool = False
    ) -> Descriptor:
        """Extract `layer`, a tar as the OCI image specification has it, compressed or not, onto `mounts`.

        Returns the descriptor of the uncompressed tar: its digest is the layer's diff ID. With `sync`, the files are
        on disk when it returns. `NotFound` for the blob, `InvalidArgument` for a media type or an archive that it
        does not read (with the entry's name), `ResourceExhausted` for an archive beyond the limits.
        """

    def compare(
        self,
        content: ContentStore,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels | None = None,
    ) -> Descriptor:
        """Write a layer that turns `lower` into `upper` into `content`; returns its descriptor, with the annotation
        `containerd.io/uncompressed` for its diff ID. Default media type: OCI tar+gzip."""


Progress = Callable[[int], None]
"""Told how many bytes of the uncompressed layer are extracted: several times a second for as long as a call lasts, in the
thread of the call, the same number again where nothing moves. What it raises ends the call and comes out of it: so a
call is cancelled."""


class Arriving(Protocol):
    """A layer's blob while it is still being written to a file on this machine, from its beginning on."""

    @property
    def path(self) -> Path:
        """The file; it may be renamed, not written anew."""

    def follow(self, told: Callable[[int], None]) -> None:
        """Have `told` called with how many bytes are there: now, and each time when there are more, in any thread."""

    def unfollow(self) -> None:
        """Have nobody called any more; no call is under way when this returns."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The uncompressed layer that was extracted. `incomplete`: the archive has files in folders that it has no entries
    for, whose owners and modes would be those of the layers below; a layer extracted apart does not know them."""

    layer: Descriptor
    incomplete: bool = False


@runtime_checkable
class Extracts(Protocol):
    """What a differ may do beyond `Differ.apply`, which is the plain form of it."""

    def extract(
        self,
        content: ContentStore,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        arriving: Arriving | None = None,
        apart: bool = False,
        progress: Progress | None = None,
    ) -> Extracted:
        """As `Differ.apply`.

        With `arriving` the blob is read from there while it grows to the size that the descriptor says; it is not
        verified then, so nobody may rely on what was extracted before the blob is. `apart`: `mounts` are those of a
        snapshot made on nothing that gets its parent by its commit (`moorage_api.snapshots.Rebases`); deletions are
        kept as overlayfs keeps them. `FailedPrecondition` where this layer is not to be had with these: then it is asked
        for without them, on another snapshot.
        """
