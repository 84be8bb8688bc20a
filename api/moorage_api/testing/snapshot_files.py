"""The part of the conformance suite of snapshotters that is about files: what a layer does to those below it.

Everything is tried through real mounts, as a container would see it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from moorage_api.linux.mount import temporary_mount
from moorage_api.snapshots import Snapshotter

Change = Callable[[Path], object]


def change(snapshotter: Snapshotter, key: str, work: Change) -> None:
    """Mount the snapshot `key` and have `work` done in it."""
    with temporary_mount(snapshotter.mounts(key)) as root:
        work(Path(root))


def layer(snapshotter: Snapshotter, name: str, parent: str, work: Change) -> None:
    """Commit `name`, which is `parent` and then `work`."""
    snapshotter.prepare(f"{name}-active", parent)
    change(snapshotter, f"{name}-active", work)
    snapshotter.commit(name, f"{name}-active")


def contents(root: Path) -> dict[str, str]:
    """What is below `root`: each path with its kind, and for a file its bytes, for a link its target."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            key = str(path.relative_to(root))
            if stat.S_ISLNK(mode):
                found[key] = f"-> {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                found[key] = path.read_text()
            else:
                found[key] = "folder" if stat.S_ISDIR(mode) else stat.filemode(mode)[0]
    return found


def seen(snapshotter: Snapshotter, parent: str) -> dict[str, str]:
    """`contents` of the committed snapshot `parent`, through a view of it."""
    key = f"{parent}-view"
    try:
        with temporary_mount(snapshotter.view(key, parent)) as root:
            return contents(Path(root))
    finally:
        snapshotter.remove(key)


def write(root: Path, path: str, text: str) -> None:
    """Write a file, and the folders that it needs."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def make_hole(root: Path, path: str, size: int) -> None:
    """Make a file of `size` bytes, none of which is on disk."""
    with open(root / path, "wb") as file:
        file.truncate(size)


def _rename_folder(root: Path) -> str:
    try:
        (root / "d").rename(root / "e")
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return "d"
    return "e"


def _write_both(root: Path) -> None:
    write(root, "a", "1")
    write(root, "b", "1")


def _link_both(root: Path) -> None:
    write(root, "a", "1")
    (root / "b").hardlink_to(root / "a")


class FileRules:
    """Rules of files; derived from by `moorage_api.testing.snapshots.SnapshotterSuite`, which has the fixtures."""

    layers: ClassVar[int] = 128
    """How many snapshots stand on one another in the test of a tall image."""

    def test_layers_add_up(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", lambda root: write(root, "a", "1"))
        layer(snapshotter, "2", "1", lambda root: write(root, "b/c", "2"))
        layer(snapshotter, "3", "2", lambda root: write(root, "b/d", "3"))
        assert seen(snapshotter, "3") == {"a": "1", "b": "folder", "b/c": "2", "b/d": "3"}
        assert seen(snapshotter, "1") == {"a": "1"}

    def test_changed_file(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", lambda root: write(root, "a", "old"))
        layer(snapshotter, "2", "1", lambda root: write(root, "a", "new"))
        assert seen(snapshotter, "1") == {"a": "old"}
        assert seen(snapshotter, "2") == {"a": "new"}

    def test_deleted_file_stays_deleted(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", _write_both)
        layer(snapshotter, "2", "1", lambda root: (root / "a").unlink())
        layer(snapshotter, "3", "2", lambda root: write(root, "c", "3"))
        assert seen(snapshotter, "3") == {"b": "1", "c": "3"}

    def test_folder_deleted_and_made_again_is_empty(self, snapshotter: Snapshotter) -> None:
        def again(root: Path) -> None:
            (root / "d/a").unlink()
            (root / "d").rmdir()
            write(root, "d/b", "2")

        layer(snapshotter, "1", "", lambda root: write(root, "d/a", "1"))
        layer(snapshotter, "2", "1", again)
        assert seen(snapshotter, "2") == {"d": "folder", "d/b": "2"}

    def test_file_in_place_of_a_folder_and_back(self, snapshotter: Snapshotter) -> None:
        def to_file(root: Path) -> None:
            (root / "x/a").unlink()
            (root / "x").rmdir()
            write(root, "x", "file")

        def to_folder(root: Path) -> None:
            (root / "x").unlink()
            (root / "x").mkdir()

        layer(snapshotter, "1", "", lambda root: write(root, "x/a", "1"))
        layer(snapshotter, "2", "1", to_file)
        layer(snapshotter, "3", "2", to_folder)
        assert seen(snapshotter, "2") == {"x": "file"}
        assert seen(snapshotter, "3") == {"x": "folder"}

    def test_renamed_file(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", lambda root: write(root, "a", "1"))
        layer(snapshotter, "2", "1", lambda root: (root / "a").rename(root / "b"))
        assert seen(snapshotter, "2") == {"b": "1"}

    def test_renamed_folder(self, snapshotter: Snapshotter) -> None:
        """A rename of a folder of a lower layer works, or is `EXDEV`, as programs expect of overlayfs; never half of it."""

        moved: list[str] = []
        layer(snapshotter, "1", "", lambda root: write(root, "d/a", "1"))
        layer(snapshotter, "2", "1", lambda root: moved.append(_rename_folder(root)))
        name = moved[0]
        assert seen(snapshotter, "2") == {name: "folder", f"{name}/a": "1"}

    def test_hard_links_of_one_layer(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", _link_both)
        snapshotter.prepare("active", "1")
        with temporary_mount(snapshotter.mounts("active")) as root:
            first, second = os.stat(f"{root}/a"), os.stat(f"{root}/b")
            assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)

    def test_owners_modes_and_times(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "1", "", _make_nasty_tree)
        layer(snapshotter, "2", "1", lambda root: write(root, "another", "file"))
        with (
            temporary_mount(snapshotter.view("lower", "1")) as below,
            temporary_mount(snapshotter.view("upper", "2")) as above,
        ):
            expected = _attributes(Path(below))
            found = _attributes(Path(above))
        del found["another"]
        assert found == expected
        assert expected["file"][:3] == (stat.S_IFREG | 0o4751, 1000, 2000)

    def test_changed_attributes_alone(self, snapshotter: Snapshotter) -> None:
        def alter(root: Path) -> None:
            os.chown(root / "file", 7, 8)
            (root / "file").chmod(0o600)
            (root / "folder").chmod(0o1777)

        layer(snapshotter, "1", "", _make_nasty_tree)
        layer(snapshotter, "2", "1", alter)
        with temporary_mount(snapshotter.view("upper", "2")) as above:
            found = _attributes(Path(above))
        assert found["file"][:3] == (stat.S_IFREG | 0o600, 7, 8)
        assert found["folder"][0] == stat.S_IFDIR | 0o1777
        assert found["folder/inner"][3] == "inner"

    def test_the_root_keeps_its_attributes(self, snapshotter: Snapshotter) -> None:
        def own(root: Path) -> None:
            os.chown(root, 11, 12)
            root.chmod(0o750)

        snapshotter.prepare("fresh")
        with temporary_mount(snapshotter.mounts("fresh")) as root:
            assert stat.S_IMODE(os.stat(root).st_mode) == 0o755
        layer(snapshotter, "1", "", own)
        layer(snapshotter, "2", "1", lambda root: write(root, "file", "text"))
        for make, key in ((snapshotter.prepare, "active"), (snapshotter.view, "view")):
            with temporary_mount(make(key, "2")) as root:
                found = os.stat(root)
                assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o750, 11, 12)

    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_view_is_read_only(self, snapshotter: Snapshotter, depth: int) -> None:
        parent = ""
        for number in range(depth):
            layer(snapshotter, str(number), parent, partial(write, path=f"file-{number}", text="text"))
            parent = str(number)
        with temporary_mount(snapshotter.view("view", parent)) as root:
            assert set(contents(Path(root))) == {f"file-{number}" for number in range(depth)}
            for work in (Path.touch, Path.mkdir):
                with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                    work(Path(root, "new"))

    def test_two_children_of_a_parent_do_not_meet(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: write(root, "file", "base"))
        for key in ("a", "b"):
            snapshotter.prepare(key, "base")
        with temporary_mount(snapshotter.mounts("a")) as first, temporary_mount(snapshotter.mounts("b")) as second:
            write(Path(first), "file", "a")
            Path(second, "file").unlink()
            assert contents(Path(first)) == {"file": "a"}
            assert contents(Path(second)) == {}
        assert seen(snapshotter, "base") == {"file": "base"}

    def test_tall_image(self, snapshotter: Snapshotter) -> None:
        """Snapshots on one another, more than a page of mount options names."""
        parent = ""
        for number in range(self.layers):
            name = f"layer-{number}"
            layer(snapshotter, name, parent, partial(write, path=str(number), text=str(number)))
            parent = name
        everything = {str(number): str(number) for number in range(self.layers)}
        assert seen(snapshotter, parent) == everything
        snapshotter.prepare("active", parent)
        change(snapshotter, "active", lambda root: (root / "0").unlink())
        with temporary_mount(snapshotter.mounts("active")) as root:
            assert set(contents(Path(root))) == set(everything) - {"0"}


def _make_nasty_tree(root: Path) -> None:
    """Every kind of entry, with attributes that copying easily loses."""
    write(root, "folder/inner", "inner")
    (root / "folder").chmod(0o2775)
    write(root, "file", "text")
    os.setxattr(root / "file", "user.note", b"\0value")
    os.chown(root / "file", 1000, 2000)
    (root / "file").chmod(0o4751)
    (root / "link").symlink_to("../../nowhere")
    os.lchown(root / "link", 3, 4)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    make_hole(root, "hole", 5_000_000)
    (root / "n\u00e4me \udcff").write_text("bytes")
    for path in (*root.rglob("*"), root / "folder"):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)


def _attributes(root: Path) -> dict[str, tuple[int, int, int, str, int, int, dict[str, bytes]]]:
    """Mode, owner, content, time, device and attributes of everything below `root`."""
    texts = contents(root)
    found = {}
    for path, text in texts.items():
        status = os.lstat(root / path)
        xattrs = {
            key: os.getxattr(root / path, key, follow_symlinks=False)
            for key in os.listxattr(root / path, follow_symlinks=False)
            if key.startswith("user.")
        }
        mode, owner = status.st_mode, (status.st_uid, status.st_gid)
        found[path] = (mode, *owner, text, status.st_mtime_ns, status.st_rdev, xattrs)
    return found
