"""Differ: layers in and out of snapshots (`containerd.services.diff.v1`)."""

from __future__ import annotations

from collections.abc import Sequence
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
