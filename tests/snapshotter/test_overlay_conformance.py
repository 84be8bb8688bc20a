"""The overlayfs snapshotter keeps the rules of snapshotters."""

from __future__ import annotations

from pathlib import Path

from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.support import default_options


class TestOverlay(SnapshotterSuite):
    def open_snapshotter(self, folder: Path) -> Snapshotter:
        return OverlaySnapshotter(folder, default_options(()))
