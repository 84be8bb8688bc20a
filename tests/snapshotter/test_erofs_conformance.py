"""The conformance suite, on the erofs snapshotter."""

from __future__ import annotations

from pathlib import Path

from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_snapshotter.erofs import ErofsSnapshotter


class TestErofs(SnapshotterSuite):
    keeps_files = False
    kill_stride = 2

    def open_snapshotter(self, folder: Path) -> ErofsSnapshotter:
        return ErofsSnapshotter(folder, ("index=off",))
