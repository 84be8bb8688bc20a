"""The native snapshotter: every snapshot is a whole copy of its parent. Slow and large, and works on any file system."""

from __future__ import annotations

import os

from moorage_api.folder_snapshotter import FolderSnapshotter
from moorage_api.linux import idmapped
from moorage_api.mounts import Mount
from moorage_api.snapshot_tree import Record
from moorage_api.snapshots import Kind
from moorage_snapshotter.copying import copy_tree


class NativeSnapshotter(FolderSnapshotter):
    """Snapshots as plain folders, mounted with bind mounts. A view needs no copy: it is its parent, read-only."""

    prompt = True

    def make(self, snapshot: Record, folder: str) -> None:
        os.chmod(folder, 0o755)
        if snapshot.parents and snapshot.info.kind is Kind.ACTIVE:
            copy_tree(self.folder(snapshot.parents[0]), folder)

    def describe(self, snapshot: Record) -> list[Mount]:
        active = snapshot.info.kind is Kind.ACTIVE
        shown = snapshot.id if active or not snapshot.parents else snapshot.parents[0]
        mapping = idmapped.options(snapshot.info.labels)
        return [Mount("bind", self.folder(shown), options=("rbind", "rw" if active else "ro", *mapping))]
