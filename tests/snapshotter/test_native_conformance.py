"""The snapshotter that copies keeps the rules of snapshotters."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.snapshots import Snapshotter
from moorage_api.testing.snapshots import SnapshotterSuite
from moorage_snapshotter.native import NativeSnapshotter


class TestNative(SnapshotterSuite):
    holds_only_changes = False

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        return NativeSnapshotter(folder)


def test_a_copy_without_its_parent_is_not_put_on_it(tmp_path: Path) -> None:
    snapshotter = NativeSnapshotter(tmp_path)
    for key in ("first", "second"):
        snapshotter.prepare(key)
    snapshotter.commit("base", "first")
    with pytest.raises(InvalidArgument, match="without the files of 'base'"):
        snapshotter.commit("top", "second", parent="base")
    snapshotter.close()
