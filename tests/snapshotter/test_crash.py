"""What failures and crashes leave behind, and that the next start clears it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moorage_api import folder_snapshotter, snapshot_tree
from moorage_api.errors import AlreadyExists, MoorageError, NotFound, ResourceExhausted
from moorage_api.linux import syscalls
from moorage_api.linux.mount import temporary_mount
from moorage_api.linux.tree import remove_tree
from moorage_api.mounts import Mount
from moorage_snapshotter.native import NativeSnapshotter
from moorage_snapshotter.overlay import OverlaySnapshotter

CLASSES = [OverlaySnapshotter, NativeSnapshotter]
Either = OverlaySnapshotter | NativeSnapshotter


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / "snapshots").iterdir()}


def fill(snapshotter: Either, key: str, name: str = "file", text: str = "text") -> None:
    with temporary_mount(snapshotter.mounts(key)) as root:
        Path(root, name).write_text(text)


@pytest.fixture(params=CLASSES)
def kind(request: pytest.FixtureRequest) -> type[Either]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("step", ["files", "record"])
def test_failed_prepare_leaves_nothing(
    kind: type[Either], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    snapshotter = kind(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "files":
        monkeypatch.setattr(snapshotter, "make", fail)
    else:
        monkeypatch.setattr(snapshot_tree, "_transact", fail)
    with pytest.raises((ResourceExhausted, OSError), match="No space"):
        snapshotter.prepare("key")
    assert folders(tmp_path) == set()
    with pytest.raises(NotFound):
        snapshotter.stat("key")
    monkeypatch.undo()
    assert snapshotter.prepare("key")
    snapshotter.close()


def test_failed_sync_leaves_the_snapshot_active(
    kind: type[Either], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshotter = kind(tmp_path)
    snapshotter.prepare("key")
    fill(snapshotter, "key")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(syscalls, "syncfs", fail)
    with pytest.raises(MoorageError, match="Input/output"):
        snapshotter.commit("name", "key")
    monkeypatch.undo()
    with pytest.raises(NotFound):
        snapshotter.stat("name")
    snapshotter.commit("name", "key")
    snapshotter.close()


def test_files_are_synced_before_the_record(
    kind: type[Either], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshotter = kind(tmp_path)
    snapshotter.prepare("key")
    fill(snapshotter, "key")
    known: list[list[str]] = []
    sync = syscalls.syncfs

    def watch(fd: int) -> None:
        sync(fd)
        known.append([info.name for info in snapshotter.walk()])

    monkeypatch.setattr(syscalls, "syncfs", watch)
    snapshotter.commit("name", "key")
    assert known == [["key"]]
    snapshotter.close()


@pytest.mark.parametrize("durable", [True, False])
def test_sync_is_a_choice(kind: type[Either], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    calls: list[int] = []
    snapshotter = kind(tmp_path, durable=durable)
    snapshotter.prepare("key")
    fill(snapshotter, "key")
    monkeypatch.setattr(syscalls, "syncfs", calls.append)
    snapshotter.commit("name", "key")
    assert len(calls) == durable
    snapshotter.close()


def test_removed_folders_wait_for_cleanup_if_asked(kind: type[Either], tmp_path: Path) -> None:
    snapshotter = kind(tmp_path, remove_at_once=False)
    snapshotter.prepare("key")
    fill(snapshotter, "key")
    snapshotter.remove("key")
    assert len(folders(tmp_path)) == 1
    snapshotter.prepare("key")
    snapshotter.cleanup()
    assert len(folders(tmp_path)) == 1
    fill(snapshotter, "key")
    snapshotter.close()


def test_folder_that_cannot_be_removed_is_tried_again(kind: type[Either], tmp_path: Path) -> None:
    """Something is still mounted in it, as after a container that did not end."""
    snapshotter = kind(tmp_path)
    snapshotter.prepare("key")
    [name] = folders(tmp_path)
    with temporary_mount([Mount("tmpfs", "tmpfs")], str(tmp_path / "snapshots" / name)):
        snapshotter.remove("key")
        assert folders(tmp_path) == {name}
        snapshotter.prepare("key")
    snapshotter.cleanup()
    assert len(folders(tmp_path)) == 1
    assert folders(tmp_path) != {name}
    snapshotter.close()


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from moorage_api.linux import syscalls
from moorage_api.linux.mount import temporary_mount
from moorage_api.linux.tree import remove_tree
from moorage_snapshotter import native, overlay
from moorage_api import folder_snapshotter, snapshot_tree
kind, root, step = sys.argv[1:]
cls = {"OverlaySnapshotter": overlay.OverlaySnapshotter, "NativeSnapshotter": native.NativeSnapshotter}[kind]
snapshotter = cls(Path(root))
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
mounts = snapshotter.prepare("key")
with temporary_mount(mounts) as mounted:
    Path(mounted, "file").write_text("text")
if step == "prepare":
    snapshot_tree._transact = die
    snapshotter.prepare("other")
if step == "commit":
    snapshot_tree._transact = die
    snapshotter.commit("name", "key")
if step == "remove":
    folder_snapshotter.remove_tree = die
    snapshotter.remove("key")
"""


@pytest.mark.parametrize("step", ["prepare", "commit", "remove"])
def test_killed_in_the_middle(kind: type[Either], tmp_path: Path, step: str) -> None:
    """After kill -9 between the files and the record: either all of the call, or nothing of it."""
    command = [sys.executable, "-c", _SCRIPT, kind.__name__, str(tmp_path), step]
    assert subprocess.run(command, check=False).returncode == -9
    left = folders(tmp_path)
    assert len(left) == {"prepare": 2, "commit": 1, "remove": 1}[step]
    snapshotter = kind(tmp_path)
    assert [info.name for info in snapshotter.walk()] == ([] if step == "remove" else ["key"])
    assert len(folders(tmp_path)) == (0 if step == "remove" else 1)
    if step != "remove":
        with temporary_mount(snapshotter.mounts("key")) as root:
            assert Path(root, "file").read_text() == "text"
        with pytest.raises(AlreadyExists):
            snapshotter.prepare("key")
    assert snapshotter.prepare("fresh")
    snapshotter.close()


def test_a_power_cut_takes_no_committed_snapshot_with_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not synced where a start can make it again; where it cannot, it is."""
    synced: list[str] = []
    monkeypatch.setattr(folder_snapshotter, "sync_folder", synced.append)
    snapshotter = OverlaySnapshotter(tmp_path)
    for name, below, mode in (("one", "", 0o755), ("two", "one", 0o700), ("three", "two", 0o700)):
        snapshotter.prepare("key", below)
        os.chmod(snapshotter.content(snapshotter.record("key").id), mode)
        snapshotter.commit(name, "key", {"containerd.io/snapshot/uidmapping": "0:1000:1"})
    assert synced == [snapshotter.content(2)]
    for id in (1, 3):
        remove_tree(snapshotter.folder(id))
    snapshotter.close()
    again = OverlaySnapshotter(tmp_path)
    assert [os.stat(again.content(id)).st_mode & 0o7777 for id in (1, 2, 3)] == [0o755, 0o700, 0o700]
    assert {os.stat(again.content(id)).st_uid for id in (1, 2, 3)} == {0}
    with temporary_mount(again.prepare("key", "three")) as root:
        assert os.listdir(root) == []
    again.close()


def test_a_power_cut_takes_what_is_in_an_active_snapshot_and_not_the_snapshot(
    kind: type[Either], tmp_path: Path
) -> None:
    """Folders of active snapshots are not synced: a machine that lost power may be without them."""
    snapshotter = kind(tmp_path)
    snapshotter.prepare("base-active")
    fill(snapshotter, "base-active")
    snapshotter.commit("base", "base-active")
    active, view = snapshotter.prepare("active", "base"), snapshotter.view("view", "base")
    for key in ("active", "view"):
        remove_tree(snapshotter.folder(snapshotter.record(key).id))
    snapshotter.close()
    (tmp_path / "snapshots/3.new/fs").mkdir(parents=True)
    again = kind(tmp_path)
    assert (again.mounts("active"), again.mounts("view")) == (active, view)
    assert folders(tmp_path) == {"1", "2", "3"}
    for key in ("active", "view"):
        with temporary_mount(again.mounts(key)) as root:
            assert Path(root, "file").read_text() == "text"
    fill(again, "active", "more")
    again.commit("name", "active")
    again.close()
