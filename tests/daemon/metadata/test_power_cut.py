"""A power cut takes what was not synced: what was acknowledged is there all the same, or is nothing that anybody had."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import NotFound
from moorage_api.snapshots import Kind
from mooraged.metadata.database import Database
from support.storage import Storage, container


class Disk:
    """What has reached the disk of the metadata: the state after the last transaction that was synced."""

    def __init__(self, storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage = storage
        self._meta = storage.folder / "meta"
        self._synced = folder
        transaction = Database._transaction

        def watched(database: Database, jobs: list[Any]) -> None:
            transaction(database, jobs)
            if any(job.durable for job in jobs):
                self._keep()

        monkeypatch.setattr(Database, "_transaction", watched)
        self._keep()

    def _keep(self) -> None:
        shutil.rmtree(self._synced, ignore_errors=True)
        shutil.copytree(self._meta, self._synced)

    def cut(self) -> None:
        """The power fails, and the machine starts again. The backend's records are synced at once, and so are there."""
        shutil.copytree(self._synced, kept := self._synced.with_name("kept"))
        self.storage.close()
        shutil.rmtree(self._meta)
        shutil.copytree(kept, self._meta)
        shutil.rmtree(kept)
        self.storage.open()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(tmp_path / "storage")
    yield storage
    storage.close()


@pytest.fixture
def disk(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(storage, tmp_path / "synced", monkeypatch)


def test_a_commit_that_was_acknowledged_is_there_and_held(storage: Storage, disk: Disk) -> None:
    storage.bind("one").leases.create("l")
    leased = storage.bind("one", "l").snapshotter()
    leased.prepare("key")
    leased.commit("name", "key", {"a": "1"})
    disk.cut()
    snapshots = storage.bind("one").snapshotter()
    info = snapshots.stat("name")
    assert (info.kind, dict(info.labels)) == (Kind.COMMITTED, {"a": "1"})
    with pytest.raises(NotFound):
        snapshots.stat("key")
    storage.collector.collect()
    snapshots.view("look", "name")
    snapshots.remove("look")
    storage.bind("one").leases.delete("l")
    storage.collector.collect()
    assert list(snapshots.walk()) == []
    assert list(storage.native.walk()) == []


def test_a_snapshot_is_there_when_anything_after_it_is(storage: Storage, disk: Disk) -> None:
    view = storage.bind("one")
    view.snapshotter().prepare("key", labels={"containerd.io/gc.root": "now"})
    view.containers.create(container("box"))
    disk.cut()
    assert storage.bind("one").snapshotter().stat("key").kind is Kind.ACTIVE
    assert storage.bind("one").snapshotter().mounts("key")


def test_one_with_nothing_after_it_leaves_no_trace(storage: Storage, disk: Disk) -> None:
    storage.bind("one").snapshotter().prepare("first", labels={"containerd.io/gc.root": "now"})
    storage.bind("one").containers.create(container("box"))
    storage.bind("one").snapshotter().prepare("last")
    assert len(list(storage.native.walk())) == 2
    disk.cut()
    snapshots = storage.bind("one").snapshotter()
    assert [info.name for info in snapshots.walk()] == ["first"]
    storage.collector.collect()
    assert len(list(storage.native.walk())) == 1
    assert snapshots.prepare("last")


def test_a_batch_is_on_disk_when_it_is_left(storage: Storage, disk: Disk) -> None:
    view = storage.bind("one")
    with suppress(NotFound), view.batch():
        view.leases.create("a")
        with view.batch():
            view.leases.create("b")
        view.leases.delete("c")
    disk.cut()
    assert [lease.id for lease in storage.bind("one").leases.list()] == ["a", "b"]
