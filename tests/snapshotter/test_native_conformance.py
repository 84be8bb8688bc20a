"""The snapshotter that copies keeps the rules of snapshotters."""

from __future__ import annotations

from pathlib import Path

from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_snapshotter.native import NativeSnapshotter


class TestNative(SnapshotterSuite):
    holds_only_changes = False

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        return NativeSnapshotter(folder)
