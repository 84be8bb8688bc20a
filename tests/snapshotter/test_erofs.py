"""Layers kept as images: what differs from folders, and how they are mounted."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moorage_api import idmap
from moorage_api.erofs.folder import write_folder
from moorage_api.erofs.layer import IMAGE, MARKER, keep_image, layer_folder, new_image
from moorage_api.errors import FailedPrecondition, MoorageError
from moorage_api.linux import syscalls
from moorage_api.linux.mount import is_mountpoint, temporary_mount
from moorage_api.linux.tree import remove_tree
from moorage_api.snapshots import Kind
from moorage_snapshotter import image_mount
from moorage_snapshotter.erofs import ErofsSnapshotter

REF = {"containerd.io/snapshot.ref": "sha256:chain"}


@pytest.fixture
def snapshotter(tmp_path: Path) -> Iterator[ErofsSnapshotter]:
    snapshotter = ErofsSnapshotter(tmp_path / "root", ("index=off",))
    yield snapshotter
    snapshotter.close()


def write_layer(folder: str, source: Path) -> None:
    """As a differ does."""
    with new_image(folder) as fd:
        write_folder(fd, str(source))
        keep_image(fd, folder)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("text")
    return tmp_path / "source"


def test_an_image_is_taken_only_from_who_unpacks(snapshotter: ErofsSnapshotter, source: Path) -> None:
    assert layer_folder(snapshotter.prepare("plain")) == ""
    folder = layer_folder(snapshotter.prepare("unpacked", labels=REF))
    assert folder == snapshotter.folder(snapshotter.record("unpacked").id)
    write_layer(folder, source)
    with pytest.raises(FileExistsError):
        write_layer(folder, source)
    snapshotter.commit("layer", "unpacked", REF)
    assert layer_folder(snapshotter.prepare("next", "layer", REF)) != folder
    with temporary_mount(snapshotter.mounts("next")) as root:
        assert Path(root, "file").read_text() == "text"


def test_a_layer_and_files_beside_it_are_not_committed(snapshotter: ErofsSnapshotter, source: Path) -> None:
    mounts = snapshotter.prepare("key", labels=REF)
    write_layer(layer_folder(mounts), source)
    with temporary_mount(mounts) as root:
        Path(root, "beside").touch()
    with pytest.raises(FailedPrecondition, match="only one"):
        snapshotter.commit("name", "key")
    assert snapshotter.stat("key").kind is Kind.ACTIVE
    os.unlink(f"{snapshotter.content(snapshotter.record('key').id)}/beside")
    snapshotter.commit("name", "key")


def test_a_commit_that_failed_is_done_again_with_what_was_written_since(
    snapshotter: ErofsSnapshotter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = snapshotter.prepare("key")
    insert = "moorage_api.snapshot_tree._transact"

    def fail(*_: object) -> None:
        raise MoorageError("the disk is full, say")

    with monkeypatch.context() as patched:
        patched.setattr(insert, fail)
        with pytest.raises(MoorageError, match="disk is full"):
            snapshotter.commit("name", "key")
    with temporary_mount(mounts) as root:
        Path(root, "late").write_text("x")
    snapshotter.commit("name", "key")
    with temporary_mount(snapshotter.view("view", "name")) as root:
        assert os.listdir(root) == ["late"]


def test_nothing_needs_no_image(snapshotter: ErofsSnapshotter, tmp_path: Path) -> None:
    """Also where a commit that failed has left one, and where an image is below and above."""
    with temporary_mount(snapshotter.prepare("first")) as root:
        Path(root, "file").write_text("text")
        os.chmod(root, 0o700)
    snapshotter.commit("base", "first")
    snapshotter.prepare("second", "base", REF)
    folder = snapshotter.folder(snapshotter.record("second").id)
    os.mkdir(f"{folder}/layer")
    os.unlink(f"{folder}/{MARKER}")
    write_layer(folder, tmp_path)
    snapshotter.commit("nothing", "second")
    assert sorted(os.listdir(folder)) == ["fs", "work"]
    assert snapshotter.usage("nothing").inodes == 1
    with temporary_mount(snapshotter.prepare("third", "nothing")) as root:
        assert os.stat(root).st_mode & 0o777 == 0o700
        os.rename(f"{root}/file", f"{root}/moved")
    snapshotter.commit("top", "third")
    with temporary_mount(snapshotter.view("view", "top")) as root:
        assert os.listdir(root) == ["moved"]
    with temporary_mount(snapshotter.view("look", "nothing")) as root:
        assert os.listdir(root) == ["file"]


def test_nothing_is_made_again_after_a_power_cut(tmp_path: Path) -> None:
    snapshotter = ErofsSnapshotter(tmp_path, ("index=off",))
    for name, below in (("one", ""), ("two", "one")):
        snapshotter.prepare(f"{name}-active", below)
        snapshotter.commit(name, f"{name}-active")
    folders = [snapshotter.folder(snapshotter.record(name).id) for name in ("one", "two")]
    snapshotter.close()
    remove_tree(folders[0])
    # What was removed beside it, and never on disk, is there again.
    write_layer(folders[1], tmp_path)
    again = ErofsSnapshotter(tmp_path, ("index=off",))
    assert [sorted(os.listdir(folder)) for folder in folders] == [["fs"], ["fs", "work"]]
    with temporary_mount(again.view("view", "two")) as root:
        assert os.listdir(root) == []
    again.close()


def test_a_damaged_image_is_an_error_and_no_mount(snapshotter: ErofsSnapshotter) -> None:
    with temporary_mount(snapshotter.prepare("key")) as root:
        Path(root, "file").touch()
    snapshotter.commit("name", "key")
    folder = snapshotter.folder(snapshotter.record("name").id)
    with open(f"{folder}/{IMAGE}", "r+b") as file:
        file.write(bytes(2048))
    with pytest.raises(MoorageError):
        snapshotter.prepare("child", "name")
    assert not is_mountpoint(f"{folder}/layer")
    assert [info.name for info in snapshotter.walk()] == ["name"]
    snapshotter.remove("name")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Make an image of a folder; returns where it may be mounted."""
    (tmp_path / "mounted").mkdir()

    def make(source: Path) -> Path:
        write_layer(str(tmp_path), source)
        return tmp_path / "mounted"

    yield make
    if is_mountpoint(str(tmp_path / "mounted")):
        syscalls.umount2(tmp_path / "mounted", syscalls.MNT_DETACH)


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="there are no loop devices (/dev/loop-control)")
def test_by_loop_devices(
    source: Path, tmp_path: Path, mounted: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel mounts no files; simulated, as the one that runs here may."""
    target, mount = mounted(source), syscalls.mount

    def refuse_files(device: str, *rest: object) -> None:
        if not str(device).startswith("/dev/"):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
        mount(device, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(syscalls, "mount", refuse_files)
    image_mount.mount_image(str(tmp_path / IMAGE), str(target))
    assert (target / "file").read_text() == "text"
    assert _loops(tmp_path)
    syscalls.umount2(target)
    deadline = time.monotonic() + 20
    while _loops(tmp_path):
        assert time.monotonic() < deadline, "the device goes with the mount"
        time.sleep(0.01)


def _loops(folder: Path) -> list[str]:
    """What loop devices hold below a folder."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(backing.read_text().strip())
        except OSError:  # let go meanwhile
            continue
    return [path for path in found if path.startswith(str(folder))]


def test_what_is_no_image_is_not_mounted(tmp_path: Path, mounted: Callable[[Path], Path], source: Path) -> None:
    target = mounted(source)
    (tmp_path / IMAGE).write_bytes(bytes(10_000))
    for mount in (image_mount.mount_image, image_mount.mount_by_loop):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            mount(str(tmp_path / IMAGE), str(target))


def test_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_mount.erofs_problem(tmp_path) == ""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(syscalls, "mount", refuse)
    assert "cannot be kept and mounted" in image_mount.erofs_problem(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_for_a_user_namespace(snapshotter: ErofsSnapshotter) -> None:
    """The image shows its files with mapped ids, and what is written belongs to the host's."""
    with temporary_mount(snapshotter.prepare("base-active")) as root:
        Path(root, "file").write_text("text")
        os.chown(f"{root}/file", 3, 4)
    snapshotter.commit("base", "base-active")
    labels = {idmap.UID_LABEL: "0:1000:10", idmap.GID_LABEL: "0:2000:10"}
    for make in (snapshotter.prepare, snapshotter.view):
        with temporary_mount(make(f"{make.__name__}d", "base", labels)) as root:
            found = os.stat(f"{root}/file")
            assert (found.st_uid, found.st_gid) == (1003, 2004)
            assert Path(root, "file").read_text() == "text"


def test_a_power_cut(tmp_path: Path) -> None:
    """The folder of an active snapshot is made again at the start; one whose layer is damaged stays to be removed."""
    snapshotter = ErofsSnapshotter(tmp_path, ("index=off",))
    snapshotter.prepare("base-active")
    with temporary_mount(snapshotter.mounts("base-active")) as root:
        Path(root, "file").write_text("text")
    snapshotter.commit("base", "base-active")
    mounts = snapshotter.prepare("active", "base")
    folder = snapshotter.folder(snapshotter.record("active").id)
    snapshotter.close()
    remove_tree(folder)
    again = ErofsSnapshotter(tmp_path, ("index=off",))
    assert again.mounts("active") == mounts
    with temporary_mount(mounts) as root:
        assert Path(root, "file").read_text() == "text"
    image = f"{again.folder(again.record('base').id)}/{IMAGE}"
    again.close()
    remove_tree(folder)
    os.truncate(image, 100)
    last = ErofsSnapshotter(tmp_path, ("index=off",))
    last.remove("active")
    last.remove("base")
    last.close()
