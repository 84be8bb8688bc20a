"""Backends keep the rules of their contracts through gRPC, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moorage_api.content import ContentStore
from moorage_api.remote.content import RemoteContentStore
from moorage_api.remote.snapshotter import RemoteSnapshotter
from moorage_api.snapshots import Snapshotter
from moorage_api.testing.content import ContentStoreSuite
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_content import LocalContentStore
from moorage_snapshotter.erofs import ErofsSnapshotter
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.support import default_options


class Remote(SnapshotterSuite):
    """A proxy does not close what is behind it."""

    backend: Callable[[Path], Snapshotter]
    survives_kills = False

    @pytest.fixture(autouse=True)
    def connected(self, wires: Any) -> None:
        self.wires = wires
        self.behind: list[Snapshotter] = []

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        self.behind.append(type(self).backend(folder))
        return RemoteSnapshotter(self.wires.connect(self.behind[-1]), "any")

    def close_snapshotter(self, snapshotter: Snapshotter) -> None:
        snapshotter.close()
        self.wires.close()
        self.behind.pop().close()


class TestOverOverlay(Remote):
    @staticmethod
    def backend(folder: Path) -> Snapshotter:  # type: ignore[override]
        return OverlaySnapshotter(folder, default_options(()))


class TestOverNative(Remote):
    backend = NativeSnapshotter
    holds_only_changes = False


class TestOverErofs(Remote):
    backend = ErofsSnapshotter
    keeps_files = False
    layers = 20


class TestContent(ContentStoreSuite):
    keeps_labels = False
    outlives_deletion = False
    cuts_anywhere = False

    @pytest.fixture(autouse=True)
    def connected(self, wires: Any) -> None:
        self.wires = wires

    def open_store(self, folder: Path) -> ContentStore:
        return RemoteContentStore(self.wires.connect(LocalContentStore(folder)))

    def close_store(self, store: ContentStore) -> None:
        self.wires.close()
