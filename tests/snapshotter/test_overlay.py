"""The mounts of the overlayfs snapshotter are containerd's, word for word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api import idmap
from moorage_api.errors import InvalidArgument
from moorage_api.linux.mount import mountinfo, temporary_mount
from moorage_api.mounts import Mount
from moorage_snapshotter.overlay import OverlaySnapshotter
from moorage_snapshotter.support import default_options, overlay_problem


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


def test_removed_together(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    commit(snapshotter, "base")
    commit(snapshotter, "kept")
    for name in ("one", "two"):
        snapshotter.prepare(name, "base")
    assert snapshotter.remove_all(["one", "two", "base", "nobody"]) == ["one", "two", "base"]
    assert [info.name for info in snapshotter.walk()] == ["kept"]
    assert os.listdir(tmp_path / "snapshots") == ["2"]


def test_removed_as_a_derived_class_has_it(tmp_path: Path) -> None:
    """Who overrides `remove` may do more there: it is not passed by."""

    class Noting(OverlaySnapshotter):
        def remove(self, key: str) -> None:
            super().remove(key)

    snapshotter = Noting(tmp_path)
    snapshotter.prepare("one")
    assert snapshotter.remove_all(["one"]) == []
    snapshotter.remove("one")
    snapshotter.close()


def test_a_snapshot_for_a_user_namespace(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    """The labels ask for a mapped mount, and give the upper folder to the root of the namespace."""
    snapshotter.prepare("base-active")
    os.chown(tmp_path / "snapshots/1/fs", 3, 4)
    snapshotter.commit("base", "base-active")
    labels = {idmap.UID_LABEL: "0:1000:10", idmap.GID_LABEL: "0:2000:10"}
    [mount] = snapshotter.prepare("mapped", "base", labels)
    assert mount.options[-2:] == ("uidmap=0:1000:10", "gidmap=0:2000:10")
    upper = os.stat(tmp_path / "snapshots/2/fs")
    assert (upper.st_uid, upper.st_gid) == (1003, 2004)
    assert snapshotter.mounts("mapped") == [mount]
    [mount] = snapshotter.view("view", "base", labels)
    assert mount.options == ("ro", "rbind", "uidmap=0:1000:10", "gidmap=0:2000:10")


def test_a_malformed_mapping_leaves_nothing(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    commit(snapshotter, "base")
    for labels in ({idmap.UID_LABEL: "nonsense"}, {idmap.GID_LABEL: "1:1000:1"}):
        with pytest.raises(InvalidArgument):
            snapshotter.prepare("mapped", "base", labels)
    assert os.listdir(tmp_path / "snapshots") == ["1"]


def _super_options(root: str) -> set[str]:
    [entry] = [entry for entry in mountinfo() if entry.target == root]
    return set(entry.super_options)


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("volatile", {"volatile", "fsync=volatile"}),
        ("userxattr", {"userxattr"}),
        ("index=on", {"index=on"}),
        ("metacopy=on", {"metacopy=on"}),
    ],
)
def test_options_of_every_mount(tmp_path: Path, option: str, shown: set[str]) -> None:
    """Changes, deletions and a commit, with each of the options that operators choose."""
    options = default_options([option])
    assert overlay_problem(tmp_path, options) == ""
    snapshotter = OverlaySnapshotter(tmp_path, options)
    with temporary_mount(snapshotter.prepare("base-active")) as root:
        for name in ("kept", "gone", "mode"):
            Path(root, name).write_text(name)
    snapshotter.commit("base", "base-active")
    with temporary_mount(snapshotter.prepare("key", "base")) as root:
        assert shown & _super_options(root)
        Path(root, "gone").unlink()
        Path(root, "mode").chmod(0o600)
        Path(root, "new").write_text("new")
    snapshotter.commit("top", "key")
    for make, key in ((snapshotter.view, "view"), (snapshotter.prepare, "again")):
        with temporary_mount(make(key, "top")) as root:
            assert {path.name: path.read_text() for path in Path(root).iterdir()} == {
                "kept": "kept",
                "mode": "mode",
                "new": "new",
            }
            assert Path(root, "mode").stat().st_mode & 0o777 == 0o600
    snapshotter.close()
