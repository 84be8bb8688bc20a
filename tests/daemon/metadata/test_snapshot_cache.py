"""Rows of snapshots in memory say what the database says."""

from __future__ import annotations

import pytest

from moorage_api.errors import MoorageError, NotFound
from moorage_api.snapshots import Info, Kind
from mooraged.metadata import View
from mooraged.metadata.snapshot_cache import SnapshotCache
from mooraged.metadata.snapshot_rows import SnapshotRow
from support.storage import Storage

PLACE = ("one", "native", "name")
ROW = SnapshotRow("one", "native", "name", "one/1/name", "Active", "", {}, 1, 1, "", "", {})


def test_kept_until_it_is_forgotten() -> None:
    cache = SnapshotCache()
    cache.keep(PLACE, ROW, cache.version)
    cache.forget(("other", "native", "name"))
    assert cache.get(PLACE) is ROW
    cache.forget(PLACE)
    assert cache.get(PLACE) is None


def test_not_kept_where_it_may_have_changed_since_it_was_read() -> None:
    cache = SnapshotCache()
    version = cache.version
    cache.forget(PLACE)
    cache.keep(PLACE, ROW, version)
    assert cache.get(PLACE) is None


def test_no_more_than_its_size() -> None:
    cache = SnapshotCache(2)
    for number in range(5):
        cache.keep(("one", "native", str(number)), ROW, cache.version)
    assert [number for number in range(5) if cache.get(("one", "native", str(number)))] == [4]


def test_every_change_is_seen_at_once(view: View, storage: Storage) -> None:
    snapshotter = view.snapshotter()
    snapshotter.prepare("key", labels={"a": "1"})
    assert snapshotter.stat("key").labels == {"a": "1"}
    snapshotter.update(Info("key", Kind.ACTIVE, labels={"a": "2"}))
    assert snapshotter.stat("key").labels == {"a": "2"}
    snapshotter.commit("name", "key", {"b": "3"})
    assert (snapshotter.stat("name").kind, snapshotter.stat("name").labels) == (Kind.COMMITTED, {"b": "3"})
    with pytest.raises(NotFound):
        snapshotter.stat("key")
    snapshotter.prepare("key", "name", {"c": "4"})
    assert snapshotter.stat("key").parent == "name"
    snapshotter.remove("key")
    with pytest.raises(NotFound):
        snapshotter.mounts("key")
    storage.collector.collect()
    with pytest.raises(NotFound):
        snapshotter.stat("name")
    assert list(snapshotter.walk()) == []


def test_a_commit_that_failed_leaves_what_is_true(
    view: View, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshotter = view.snapshotter()
    snapshotter.prepare("key")

    def refuses(name: str, key: str, labels: object = None) -> None:
        raise MoorageError("not now")

    with monkeypatch.context() as broken:
        broken.setattr(storage.native, "commit", refuses)
        with pytest.raises(MoorageError, match="not now"):
            snapshotter.commit("name", "key")
    assert snapshotter.stat("key").kind is Kind.ACTIVE
    assert snapshotter.mounts("key")
    snapshotter.commit("name", "key")
    assert snapshotter.stat("name").kind is Kind.COMMITTED
