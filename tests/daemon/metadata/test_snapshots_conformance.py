"""The conformance suite of snapshotters over a namespace's view of the built-in ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_content import LocalContentStore
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter
from mooraged.metadata import Metadata


class Wrapped(SnapshotterSuite):
    """A wrapper does not close what is below it, so that the suite's ways of closing are not enough."""

    backend: Callable[[Path], Snapshotter]

    @pytest.fixture(autouse=True)
    def closed(self) -> Iterator[None]:
        self.opened: list[tuple[Metadata, Snapshotter]] = []
        yield
        self._close()

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        self._close()
        backend = type(self).backend(folder / "backend")
        metadata = Metadata(folder / "meta", LocalContentStore(folder / "content"), {"wrapped": backend})
        self.opened.append((metadata, backend))
        return metadata.bind("client").snapshotter()

    def _close(self) -> None:
        while self.opened:
            metadata, backend = self.opened.pop()
            metadata.close()
            backend.close()


class TestOverOverlay(Wrapped):
    backend = OverlaySnapshotter


class TestOverNative(Wrapped):
    backend = NativeSnapshotter
    holds_only_changes = False
