"""The tree of snapshot records: what a snapshotter relies on beyond the contract's own rules."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.snapshot_tree import Record, SnapshotTree
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.wal import CHECKPOINT_PAGES


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[SnapshotTree]:
    tree = SnapshotTree(tmp_path / "metadata.db")
    yield tree
    tree.close()


def nothing(record: Record) -> None:
    return


def no_usage(record: Record) -> Usage:
    return Usage(0, 0)


def layer(tree: SnapshotTree, name: str, parent: str = "") -> Record:
    tree.create(Kind.ACTIVE, f"{name}-active", parent, None, nothing)
    return tree.commit(name, f"{name}-active", None, no_usage)


def test_parents_are_ids_from_the_nearest_up(tree: SnapshotTree) -> None:
    first, second = layer(tree, "1"), layer(tree, "2", "1")
    record = tree.create(Kind.VIEW, "view", "2", None, nothing)
    assert record.parents == (second.id, first.id)
    assert tree.get("view") == record


def test_id_stays_with_a_commit(tree: SnapshotTree) -> None:
    active = tree.create(Kind.ACTIVE, "key", "", None, nothing)
    committed = tree.commit("name", "key", {"a": "1"}, lambda record: Usage(5, 6))
    assert committed.id == active.id
    assert tree.get("name").usage == Usage(5, 6)


def test_ids_are_not_used_again(tree: SnapshotTree, tmp_path: Path) -> None:
    first = layer(tree, "1")
    last = tree.create(Kind.ACTIVE, "key", "", None, nothing)
    tree.remove("key")
    tree.close()
    again = SnapshotTree(tmp_path / "metadata.db")
    assert again.create(Kind.ACTIVE, "key", "", None, nothing).id not in (first.id, last.id)
    again.close()


def test_many_are_removed_together(tree: SnapshotTree, tmp_path: Path) -> None:
    """Children before what they stand on; what somebody else stands on stays, and so does what that stands on."""
    for name, below in (("1", ""), ("2", "1"), ("3", "2"), ("kept", "1"), ("other", "")):
        last = layer(tree, name, below)
    gone = tree.remove_all(["3", "2", "1", "other", "nobody", "other"])
    assert [record.info.name for record in gone] == ["3", "2", "other"]
    assert [info.name for info in tree.walk()] == ["1", "kept"]
    assert tree.remove_all(["1", "nobody"]) == []
    tree.remove("kept")
    tree.close()
    again = SnapshotTree(tmp_path / "metadata.db")
    assert [info.name for info in again.walk()] == ["1"]
    assert again.create(Kind.ACTIVE, "key", "1", None, nothing).id > last.id
    again.remove("key")
    again.remove("1")
    again.close()


def test_id_counts_while_it_is_made(tree: SnapshotTree) -> None:
    seen: list[bool] = []
    record = tree.create(Kind.ACTIVE, "key", "", None, lambda record: seen.append(record.id in tree.ids()))
    assert seen == [True]
    assert tree.ids() == {record.id}


def test_snapshot_that_could_not_be_made_is_not_there(tree: SnapshotTree) -> None:
    def fail(record: Record) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        tree.create(Kind.ACTIVE, "key", "", None, fail)
    assert tree.ids() == frozenset()
    tree.create(Kind.ACTIVE, "key", "", None, nothing)


def test_snapshot_that_could_not_be_sealed_stays_active(tree: SnapshotTree) -> None:
    def fail(record: Record) -> Usage:
        raise OSError("no space")

    tree.create(Kind.ACTIVE, "key", "", {"a": "1"}, nothing)
    with pytest.raises(OSError, match="no space"):
        tree.commit("name", "key", None, fail)
    assert tree.get("key").info.kind is Kind.ACTIVE
    with pytest.raises(NotFound):
        tree.get("name")


def test_name_is_taken_while_it_is_made(tree: SnapshotTree) -> None:
    """A second caller waits, and is told what came of the first."""
    made, go_on = threading.Event(), threading.Event()

    def slow(record: Record) -> None:
        made.set()
        go_on.wait()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(tree.create, Kind.ACTIVE, "key", "", None, slow)
        made.wait()
        second = threads.submit(tree.create, Kind.ACTIVE, "key", "", None, nothing)
        assert tree.create(Kind.ACTIVE, "other", "", None, nothing).info.name == "other"
        assert not second.done()
        go_on.set()
        assert first.result().info.name == "key"
        with pytest.raises(AlreadyExists):
            second.result()


def test_parent_stays_while_a_child_is_made(tree: SnapshotTree) -> None:
    made, go_on = threading.Event(), threading.Event()

    def slow(record: Record) -> None:
        made.set()
        go_on.wait()

    layer(tree, "base")
    with ThreadPoolExecutor(2) as threads:
        child = threads.submit(tree.create, Kind.ACTIVE, "child", "base", None, slow)
        made.wait()
        removal = threads.submit(tree.remove, "base")
        assert not removal.done()
        go_on.set()
        child.result()
        with pytest.raises(FailedPrecondition):
            removal.result()


def test_parent_at_the_commit(tree: SnapshotTree) -> None:
    """Layers that were unpacked side by side are put on one another when they are committed."""
    base = layer(tree, "base")
    tree.create(Kind.ACTIVE, "key", "", None, nothing)
    tree.commit("top", "key", None, no_usage, parent="base")
    assert tree.get("top").parents == (base.id,)
    assert tree.get("top").info.parent == "base"
    with pytest.raises(FailedPrecondition):
        tree.remove("base")


def test_parent_at_the_commit_that_cannot_be(tree: SnapshotTree) -> None:
    layer(tree, "base")
    layer(tree, "other")
    tree.create(Kind.ACTIVE, "based", "base", None, nothing)
    with pytest.raises(InvalidArgument):
        tree.commit("name", "based", None, no_usage, parent="other")
    tree.commit("name", "based", None, no_usage, parent="base")
    tree.create(Kind.ACTIVE, "free", "", None, nothing)
    tree.create(Kind.ACTIVE, "active", "", None, nothing)
    with pytest.raises(FailedPrecondition):
        tree.commit("more", "free", None, no_usage, parent="active")
    with pytest.raises(NotFound):
        tree.commit("more", "free", None, no_usage, parent="nobody")


def test_empty_labels_are_not_kept(tree: SnapshotTree) -> None:
    tree.create(Kind.ACTIVE, "key", "", {"a": "1", "b": ""}, nothing)
    assert dict(tree.get("key").info.labels) == {"a": "1"}


def test_labels_too_large(tree: SnapshotTree) -> None:
    with pytest.raises(InvalidArgument):
        tree.create(Kind.ACTIVE, "key", "", {"a": "x" * 5000}, nothing)
    tree.create(Kind.ACTIVE, "key", "", None, nothing)
    with pytest.raises(InvalidArgument):
        tree.update(Info("key", Kind.ACTIVE, labels={"a": "x" * 5000}))


def test_record_is_on_disk_when_the_call_returns(tree: SnapshotTree, tmp_path: Path) -> None:
    """What another process reads after a kill -9, without any farewell of this one."""
    layer(tree, "base")
    with sqlite3.connect(tmp_path / "metadata.db") as other:
        assert other.execute("SELECT name, kind FROM snapshot").fetchall() == [("base", "Committed")]
    other.close()


def test_the_log_is_written_over_and_does_not_grow(tree: SnapshotTree, tmp_path: Path) -> None:
    log = tmp_path / "metadata.db-wal"
    size = log.stat().st_size
    assert size > CHECKPOINT_PAGES * 4096
    for number in range(CHECKPOINT_PAGES):
        tree.create(Kind.ACTIVE, f"key-{number}", "", None, nothing)
    assert log.stat().st_size == size
    tree.close()
    again = SnapshotTree(tmp_path / "metadata.db")
    assert len(again.records()) == CHECKPOINT_PAGES
    again.close()


def test_parents_with_greater_ids_are_found_again(tree: SnapshotTree, tmp_path: Path) -> None:
    """As where a commit gave a snapshot a parent that was made after it."""
    tree.create(Kind.ACTIVE, "key", "", None, nothing)
    layer(tree, "base")
    top = tree.commit("top", "key", None, no_usage, parent="base")
    tree.create(Kind.VIEW, "view", "top", None, nothing)
    known = tree.records()
    tree.close()
    again = SnapshotTree(tmp_path / "metadata.db")
    assert sorted(again.records(), key=lambda record: record.id) == sorted(known, key=lambda record: record.id)
    assert again.get("view").parents == (top.id, *top.parents)
    with pytest.raises(FailedPrecondition):
        again.remove("base")
    again.close()


def test_database_of_a_later_version(tmp_path: Path) -> None:
    SnapshotTree(tmp_path / "metadata.db").close()
    with sqlite3.connect(tmp_path / "metadata.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FailedPrecondition, match="version 99"):
        SnapshotTree(tmp_path / "metadata.db")


def test_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(DataLoss, match=r"metadata\.db"):
        SnapshotTree(tmp_path / "metadata.db")
