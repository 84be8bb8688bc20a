"""The conformance suite of snapshotters over a namespace's view of the built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_content import LocalContentStore
from moorage_snapshotter.erofs import ErofsSnapshotter
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from mooraged.metadata import Metadata


class Wrapped(SnapshotterSuite):
    """A wrapper does not close what is below it; what it removes is freed by the collector."""

    backend: Callable[[Path], Snapshotter]
    frees_at_once = False
    kill_stride = 5

    @pytest.fixture(autouse=True)
    def nothing_open(self) -> None:
        self.opened: list[tuple[Metadata, Snapshotter]] = []

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        backend = type(self).backend(folder / "backend")
        metadata = Metadata(folder / "meta", LocalContentStore(folder / "content"), {"wrapped": backend})
        self.opened.append((metadata, backend))
        return metadata.bind("client").snapshotter()

    def close_snapshotter(self, snapshotter: Snapshotter) -> None:
        metadata, backend = self.opened.pop()
        metadata.close()
        backend.close()


class TestOverOverlay(Wrapped):
    backend = OverlaySnapshotter


class TestOverNative(Wrapped):
    backend = NativeSnapshotter
    survives_kills = False  # as shown over overlayfs
    holds_only_changes = False


class TestOverErofs(Wrapped):
    backend = ErofsSnapshotter
    survives_kills = False  # as shown over overlayfs
    keeps_files = False
    layers = 20
