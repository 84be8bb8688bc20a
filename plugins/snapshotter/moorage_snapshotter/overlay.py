"""The overlayfs snapshotter: a layer is a folder, an active snapshot is an overlay of its own folder on its parents'.

Layout as in containerd: `snapshots/ID/fs` holds the files, with whiteouts as overlayfs has them; `snapshots/ID/work`
is overlayfs' own, in active snapshots only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from moorage_api.folder_snapshotter import FolderSnapshotter
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record
from moorage_api.snapshots import Kind


class OverlaySnapshotter(FolderSnapshotter):
    """Snapshots as overlayfs mounts, with `options` on each overlay (not on bind mounts)."""

    rebases = True

    def __init__(
        self, root: Path, options: Sequence[str] = (), *, durable: bool = True, remove_at_once: bool = True
    ) -> None:
        self._options = tuple(options)
        super().__init__(root, durable=durable, remove_at_once=remove_at_once)

    def content(self, id: int) -> str:
        return f"{self.folder(id)}/fs"

    def make(self, snapshot: Record, folder: str) -> None:
        upper = f"{folder}/fs"
        os.mkdir(upper)
        os.chmod(upper, 0o755)
        if snapshot.info.kind is Kind.ACTIVE:
            os.mkdir(f"{folder}/work", 0o711)
        if snapshot.parents:
            # The root of an overlay is its uppermost folder: it must look like the root of the layer below.
            below = os.stat(self.content(snapshot.parents[0]))
            os.chown(upper, below.st_uid, below.st_gid)
            os.chmod(upper, below.st_mode & 0o7777)

    def describe(self, snapshot: Record) -> list[Mount]:
        active = snapshot.info.kind is Kind.ACTIVE
        if not snapshot.parents:
            return [_bind(self.content(snapshot.id), active)]
        if not active and len(snapshot.parents) == 1:
            # overlayfs wants two lower folders when there is no upper one.
            return [_bind(self.content(snapshot.parents[0]), False)]
        options = [f"workdir={self.folder(snapshot.id)}/work", f"upperdir={self.content(snapshot.id)}"]
        lower = ":".join(self.content(parent) for parent in snapshot.parents)
        return [
            Mount("overlay", "overlay", options=(*(options if active else ()), f"lowerdir={lower}", *self._options))
        ]


def _bind(source: str, writable: bool) -> Mount:
    return Mount("bind", source, options=("rw" if writable else "ro", "rbind"))
