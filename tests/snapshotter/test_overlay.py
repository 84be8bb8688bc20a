"""The mounts of the overlayfs snapshotter are containerd's, word for word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.mounts import Mount
from moorage_snapshotter.overlay import OverlaySnapshotter


@pytest.fixture
def snapshotter(tmp_path: Path) -> Iterator[OverlaySnapshotter]:
    snapshotter = OverlaySnapshotter(tmp_path, ("index=off",))
    yield snapshotter
    snapshotter.close()


def commit(snapshotter: OverlaySnapshotter, name: str, parent: str = "") -> None:
    snapshotter.prepare(f"{name}-active", parent)
    snapshotter.commit(name, f"{name}-active")


def test_mounts(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    at = f"{tmp_path}/snapshots"
    commit(snapshotter, "one")
    commit(snapshotter, "two", "one")
    assert snapshotter.prepare("a") == [Mount("bind", f"{at}/3/fs", options=("rw", "rbind"))]
    assert snapshotter.view("b") == [Mount("bind", f"{at}/4/fs", options=("ro", "rbind"))]
    assert snapshotter.view("c", "one") == [Mount("bind", f"{at}/1/fs", options=("ro", "rbind"))]
    layers = f"lowerdir={at}/2/fs:{at}/1/fs"
    assert snapshotter.view("d", "two") == [Mount("overlay", "overlay", options=(layers, "index=off"))]
    own = (f"workdir={at}/7/work", f"upperdir={at}/7/fs")
    assert snapshotter.prepare("e", "two") == [Mount("overlay", "overlay", options=(*own, layers, "index=off"))]


def test_layout(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    commit(snapshotter, "base")
    snapshotter.prepare("active", "base")
    snapshotter.view("view", "base")
    found = {
        name: sorted(os.listdir(tmp_path / "snapshots" / name)) for name in sorted(os.listdir(tmp_path / "snapshots"))
    }
    assert found == {"1": ["fs", "work"], "2": ["fs", "work"], "3": ["fs"]}


def test_layers_put_on_one_another_at_their_commit(snapshotter: OverlaySnapshotter) -> None:
    """As a client does that unpacks the layers of an image side by side."""
    snapshotter.prepare("first")
    snapshotter.prepare("second")
    snapshotter.commit("base", "first")
    snapshotter.commit("top", "second", parent="base")
    [mount] = snapshotter.view("view", "top")
    assert mount.options[0].endswith("/snapshots/1/fs")
    assert mount.type == "overlay"
