"""The conformance suite of snapshotters. An author's test file:

    from moorage_api.testing.snapshots import SnapshotterSuite

    class TestMine(SnapshotterSuite):
        def open_snapshotter(self, folder):
            return MySnapshotter(folder)

Each test states one rule of `moorage_api.snapshots`. What is said of files is tried through real mounts: needs root.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.linux.mount import temporary_mount
from moorage_api.linux.tree import disk_usage
from moorage_api.snapshots import Info, Kind, Snapshotter, Usage
from moorage_api.testing.snapshot_crashes import CrashRules
from moorage_api.testing.snapshot_files import FileRules, change, contents, layer, make_hole, seen, write


class SnapshotterSuite(FileRules, CrashRules):
    """Derive a class whose name begins with `Test`, and say how to open the snapshotter."""

    holds_only_changes: ClassVar[bool] = True
    """False where a snapshot holds a whole copy of its parent, so that its usage counts that too."""

    keeps_files: ClassVar[bool] = True
    """False where a committed snapshot is kept in another form than as files, an image of them, so that its usage is that
    form's."""

    shown_on_failure: list[Snapshotter]

    def open_snapshotter(self, folder: Path) -> Snapshotter:
        """Open the snapshotter in `folder`, new or again."""
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "snapshotter"
        folder.mkdir()
        return folder

    @pytest.fixture
    def reopen(self, folder: Path) -> Iterator[Callable[[], Snapshotter]]:
        """Close the snapshotter and open it again."""
        opened: list[Snapshotter] = []

        def reopen() -> Snapshotter:
            while opened:
                self.close_snapshotter(opened.pop())
            opened.append(self.open_snapshotter(folder))
            return opened[-1]

        self.shown_on_failure = opened
        yield reopen
        while opened:
            self.close_snapshotter(opened.pop())

    @pytest.fixture
    def snapshotter(self, reopen: Callable[[], Snapshotter]) -> Snapshotter:
        return reopen()

    # Names, parents, kinds

    def test_prepared_snapshot_is_active(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", labels={"a": "1"})
        info = snapshotter.stat("key")
        assert (info.name, info.kind, info.parent, dict(info.labels)) == ("key", Kind.ACTIVE, "", {"a": "1"})
        assert info.created_at == info.updated_at > 0

    def test_committed_snapshot_replaces_its_key(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key")
        snapshotter.commit("name", "key", {"b": "2"})
        assert snapshotter.stat("name").kind is Kind.COMMITTED
        with pytest.raises(NotFound):
            snapshotter.stat("key")

    def test_labels_of_an_active_snapshot_end_with_its_commit(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", labels={"a": "1"})
        snapshotter.commit("name", "key", {"b": "2"})
        assert dict(snapshotter.stat("name").labels) == {"b": "2"}

    def test_view_shows_its_parent(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: write(root, "file", "text"))
        snapshotter.view("view", "base")
        info = snapshotter.stat("view")
        assert (info.kind, info.parent) == (Kind.VIEW, "base")
        with temporary_mount(snapshotter.mounts("view")) as root:
            assert contents(Path(root)) == {"file": "text"}

    def test_empty_key_is_refused(self, snapshotter: Snapshotter) -> None:
        with pytest.raises(InvalidArgument):
            snapshotter.prepare("")

    @pytest.mark.parametrize("make", ["prepare", "view"])
    def test_taken_key_is_refused(self, snapshotter: Snapshotter, make: str) -> None:
        snapshotter.prepare("active")
        layer(snapshotter, "committed", "", lambda root: None)
        for taken in ("active", "committed"):
            with pytest.raises(AlreadyExists):
                getattr(snapshotter, make)(taken)

    @pytest.mark.parametrize("make", ["prepare", "view"])
    def test_missing_parent_is_not_found(self, snapshotter: Snapshotter, make: str) -> None:
        with pytest.raises(NotFound):
            getattr(snapshotter, make)("key", "nobody")
        assert list(snapshotter.walk()) == []

    @pytest.mark.parametrize("make", ["prepare", "view"])
    def test_parent_must_be_committed(self, snapshotter: Snapshotter, make: str) -> None:
        snapshotter.prepare("active")
        with pytest.raises(InvalidArgument):
            getattr(snapshotter, make)("key", "active")

    def test_commit_to_a_taken_name_leaves_the_active_one(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "name", "", lambda root: write(root, "first", "1"))
        snapshotter.prepare("key")
        change(snapshotter, "key", lambda root: write(root, "second", "2"))
        with pytest.raises(AlreadyExists):
            snapshotter.commit("name", "key")
        assert snapshotter.stat("key").kind is Kind.ACTIVE
        assert seen(snapshotter, "name") == {"first": "1"}
        snapshotter.commit("other", "key")
        assert seen(snapshotter, "other") == {"second": "2"}

    def test_commit_twice(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key")
        snapshotter.commit("name", "key")
        with pytest.raises(NotFound):
            snapshotter.commit("again", "key")
        with pytest.raises(FailedPrecondition):
            snapshotter.commit("again", "name")

    def test_view_cannot_be_committed(self, snapshotter: Snapshotter) -> None:
        snapshotter.view("view")
        with pytest.raises(FailedPrecondition):
            snapshotter.commit("name", "view")

    def test_committed_snapshot_has_no_mounts(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "name", "", lambda root: None)
        with pytest.raises(FailedPrecondition):
            snapshotter.mounts("name")

    @pytest.mark.parametrize("call", ["stat", "usage", "mounts", "remove"])
    def test_unknown_key_is_not_found(self, snapshotter: Snapshotter, call: str) -> None:
        with pytest.raises(NotFound):
            getattr(snapshotter, call)("nobody")

    def test_one_of_many_who_prepare_a_key_succeeds(self, snapshotter: Snapshotter) -> None:
        start = threading.Barrier(8)

        def prepare(_: int) -> bool:
            start.wait()
            try:
                snapshotter.prepare("key")
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(prepare, range(8))) == 1

    def test_many_work_at_once(self, snapshotter: Snapshotter) -> None:
        """Each on snapshots of its own, over a parent that all share, while others list and clean up."""
        layer(snapshotter, "base", "", lambda root: write(root, "file", "text"))
        done = threading.Event()

        def work(number: int) -> None:
            for turn in range(3):
                name = f"{number}-{turn}"
                snapshotter.prepare(f"{name}-active", "base")
                snapshotter.update(Info(f"{name}-active", Kind.ACTIVE, labels={"turn": str(turn)}))
                snapshotter.commit(name, f"{name}-active")
                snapshotter.prepare(f"{name}-child", name)
                snapshotter.remove(f"{name}-child")
                if turn < 2:
                    snapshotter.remove(name)

        def watch() -> None:
            while not done.is_set():
                infos = {info.name: info for info in snapshotter.walk()}
                assert all(info.parent in infos for info in infos.values() if info.parent)
                snapshotter.cleanup()

        with ThreadPoolExecutor(7) as threads:
            watching = threads.submit(watch)
            try:
                list(threads.map(work, range(6)))
            finally:
                done.set()
            watching.result()
        assert [info.name for info in snapshotter.walk()] == [*(f"{number}-2" for number in range(6)), "base"]
        assert all(seen(snapshotter, f"{number}-2") == {"file": "text"} for number in range(6))

    def test_a_parent_is_never_lost_to_a_race(self, snapshotter: Snapshotter) -> None:
        """Either the parent is removed first, and `NotFound`, or the child is made first, and `FailedPrecondition`."""
        for number in range(10):
            layer(snapshotter, f"base-{number}", "", lambda root: write(root, "file", "text"))
            start = threading.Barrier(2)

            def prepare(number: int = number, start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    snapshotter.prepare(f"child-{number}", f"base-{number}")
                except NotFound:
                    return False
                return True

            def remove(number: int = number, start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    snapshotter.remove(f"base-{number}")
                except FailedPrecondition:
                    return False
                return True

            with ThreadPoolExecutor(2) as threads:
                outcomes = [threads.submit(prepare), threads.submit(remove)]
            made, removed = (outcome.result() for outcome in outcomes)
            assert made is not removed
            if made:
                with temporary_mount(snapshotter.mounts(f"child-{number}")) as root:
                    assert contents(Path(root)) == {"file": "text"}

    # Removal

    def test_parent_is_removed_after_its_children(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: None)
        snapshotter.prepare("child", "base")
        with pytest.raises(FailedPrecondition):
            snapshotter.remove("base")
        snapshotter.remove("child")
        snapshotter.remove("base")
        assert list(snapshotter.walk()) == []

    def test_removed_key_is_free_and_its_files_are_gone(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key")
        change(snapshotter, "key", lambda root: write(root, "file", "old"))
        snapshotter.remove("key")
        snapshotter.prepare("key")
        with temporary_mount(snapshotter.mounts("key")) as root:
            assert contents(Path(root)) == {}

    def test_cleanup_spares_what_is_in_use(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: write(root, "file", "text"))
        snapshotter.prepare("active", "base")
        change(snapshotter, "active", lambda root: write(root, "more", "text"))
        snapshotter.cleanup()
        snapshotter.cleanup()
        with temporary_mount(snapshotter.mounts("active")) as root:
            assert contents(Path(root)) == {"file": "text", "more": "text"}

    def test_cleanup_beside_others_who_prepare(self, snapshotter: Snapshotter) -> None:
        done = threading.Event()

        def clean() -> None:
            while not done.is_set():
                snapshotter.cleanup()

        with ThreadPoolExecutor(1) as threads:
            cleaning = threads.submit(clean)
            for number in range(50):
                snapshotter.prepare(f"key-{number}")
            done.set()
            cleaning.result()
        for number in range(50):
            change(snapshotter, f"key-{number}", lambda root: write(root, "file", "text"))

    # Records

    def test_update_changes_labels_alone(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", labels={"a": "1", "b": "2"})
        before = snapshotter.stat("key")
        updated = snapshotter.update(Info("key", Kind.COMMITTED, "parent", {"c": "3"}))
        assert updated == snapshotter.stat("key")
        assert dict(updated.labels) == {"c": "3"}
        assert (updated.kind, updated.parent, updated.created_at) == (before.kind, "", before.created_at)
        assert updated.updated_at > before.updated_at

    def test_update_of_one_label(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", labels={"a": "1", "b.c": "2", "d": "4"})
        info = Info("key", Kind.ACTIVE, labels={"b.c": "3", "a": "9", "d": ""})
        updated = snapshotter.update(info, ["labels.b.c", "labels.d"])
        assert dict(updated.labels) == {"a": "1", "b.c": "3"}

    def test_update_of_anything_else_is_refused(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", labels={"a": "1"})
        for path in ("name", "parent", "kind", "created_at"):
            with pytest.raises(InvalidArgument):
                snapshotter.update(Info("key", Kind.ACTIVE), [path])
        assert dict(snapshotter.stat("key").labels) == {"a": "1"}

    def test_update_of_an_unknown_key(self, snapshotter: Snapshotter) -> None:
        with pytest.raises(NotFound):
            snapshotter.update(Info("nobody", Kind.ACTIVE))

    def test_walk_goes_by_name_and_agrees_with_stat(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "b", "", lambda root: None)
        snapshotter.prepare("c", "b", {"x": "y"})
        snapshotter.view("a", "b")
        walked = list(snapshotter.walk())
        assert [info.name for info in walked] == ["a", "b", "c"]
        assert walked == [snapshotter.stat(info.name) for info in walked]

    @pytest.mark.parametrize(
        ("filters", "names"),
        [
            (["kind==committed"], ["b"]),
            (["kind==view", "kind==active"], ["a", "c"]),
            (["parent==b,labels.x==y"], ["c"]),
            (["name==b"], ["b"]),
            (["labels.x"], ["c"]),
            (["name~=[ac]"], ["a", "c"]),
            (["name==nobody"], []),
        ],
    )
    def test_walk_with_filters(self, snapshotter: Snapshotter, filters: list[str], names: list[str]) -> None:
        layer(snapshotter, "b", "", lambda root: None)
        snapshotter.prepare("c", "b", {"x": "y"})
        snapshotter.view("a", "b")
        assert [info.name for info in snapshotter.walk(filters)] == names

    def test_walk_with_a_malformed_filter(self, snapshotter: Snapshotter) -> None:
        with pytest.raises(InvalidArgument):
            list(snapshotter.walk(["=="]))

    def test_mounts_are_the_same_each_time(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: None)
        prepared, viewed = snapshotter.prepare("active", "base"), snapshotter.view("view", "base")
        for _ in range(2):
            assert snapshotter.mounts("active") == prepared
            assert snapshotter.mounts("view") == viewed

    def test_everything_is_there_after_a_restart(
        self, snapshotter: Snapshotter, reopen: Callable[[], Snapshotter]
    ) -> None:
        layer(snapshotter, "base", "", lambda root: write(root, "file", "text"))
        snapshotter.prepare("active", "base", {"a": "1"})
        change(snapshotter, "active", lambda root: write(root, "more", "text"))
        before = list(snapshotter.walk()), snapshotter.usage("base"), snapshotter.mounts("active")
        again = reopen()
        assert (list(again.walk()), again.usage("base"), again.mounts("active")) == before
        with temporary_mount(again.mounts("active")) as root:
            assert contents(Path(root)) == {"file": "text", "more": "text"}

    def test_closed_twice(self, snapshotter: Snapshotter) -> None:
        snapshotter.close()
        snapshotter.close()

    # Usage

    def test_usage_is_what_du_counts(self, snapshotter: Snapshotter) -> None:
        def fill(root: Path) -> None:
            write(root, "folder/file", "x" * 100_000)
            (root / "folder/link").hardlink_to(root / "folder/file")
            make_hole(root, "hole", 1 << 30)

        snapshotter.prepare("key")
        with temporary_mount(snapshotter.mounts("key")) as root:
            fill(Path(root))
            expected = Usage(*disk_usage(root))
            assert expected.inodes == 4
            assert snapshotter.usage("key") == expected
        snapshotter.commit("name", "key")
        committed = snapshotter.usage("name")
        if self.keeps_files:
            assert committed == expected
        else:
            assert 100_000 <= committed.size < 1_000_000, "the bytes of the file once, and none for the hole"

    def test_usage_of_a_child_is_its_own(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", "", lambda root: write(root, "large", "x" * 1_000_000))
        layer(snapshotter, "child", "base", lambda root: write(root, "small", "x"))
        if self.holds_only_changes:
            assert snapshotter.usage("child").size < 100_000
            assert snapshotter.usage("child").inodes == 2 or not self.keeps_files
        else:
            assert snapshotter.usage("child").size > 1_000_000
            assert snapshotter.usage("child").inodes == 3
