"""What is collected, what is not, and what is left of it on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound
from moorage_api.leases import Resource
from moorage_api.sandboxes import Sandbox
from moorage_api.snapshots import Info, Kind
from mooraged.gc import Stats
from mooraged.gc.graph import Kind as NodeKind
from mooraged.gc.graph import Node
from mooraged.metadata import View
from support.storage import Storage, container, digest_of, image, layer, put

EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"
ROOT = "containerd.io/gc.root"
REF = "containerd.io/gc.ref"
BREF = "containerd.io/gc.bref"
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
FUTURE = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def blobs(view: View) -> set[str]:
    return {info.digest for info in view.content.walk()}


def snapshots(view: View) -> set[str]:
    return {info.name for info in view.snapshotter().walk()}


def put_image(view: View, name: str = "img") -> tuple[str, str, str]:
    """An image as a pull leaves it: a manifest that refers to a config and a layer, the config to a snapshot."""
    config = put(view, f"config of {name}".encode(), {f"{REF}.snapshot.native": f"chain-{name}"}).digest
    blob = put(view, f"layer of {name}".encode()).digest
    labels = {f"{REF}.content.config": config, f"{REF}.content.l.0": blob}
    manifest = put(view, f"manifest of {name}".encode(), labels).digest
    layer(view, f"base-{name}")
    layer(view, f"chain-{name}", f"base-{name}")
    view.images.create(image(name, manifest))
    return manifest, config, blob


def test_an_image_keeps_all_of_it_and_its_removal_frees_all(view: View, storage: Storage) -> None:
    kept = put_image(view, "kept")
    gone = put_image(view, "gone")
    storage.collector.collect()
    assert blobs(view) == {*kept, *gone}
    view.images.delete("gone")
    storage.bus.take()
    stats = storage.collector.collect()
    assert blobs(view) == {info.digest for info in storage.content.walk()} == set(kept)
    assert snapshots(view) == {"base-kept", "chain-kept"}
    assert len(list(storage.native.walk())) == 2
    assert len(list((storage.folder / "native" / "snapshots").iterdir())) == 2
    assert dict(stats.records) == {"content": 3, "snapshot": 2}
    assert (stats.blobs, stats.ingests, stats.snapshots) == (3, 0, 2)
    assert stats.blob_bytes == len("manifest of gone" + "config of gone" + "layer of gone")
    assert 0 < stats.pause <= stats.seconds
    assert sorted(storage.bus.take()) == [("one", "/snapshot/remove")] * 2


def test_nothing_to_do(storage: Storage) -> None:
    storage.collector.collect()
    stats = storage.collector.collect()
    assert (dict(stats.records), stats.blobs, stats.snapshots) == ({}, 0, 0)


def test_a_plan_changes_nothing(view: View, storage: Storage) -> None:
    digest = put(view, b"loose").digest
    plan = storage.collector.plan()
    assert plan == {Node(NodeKind.CONTENT, "one", digest)}
    assert blobs(view) == {digest}


def test_roots_by_label(view: View, storage: Storage) -> None:
    kept = put(view, b"kept", {ROOT: "now"}).digest
    put(view, b"loose")
    layer(view, "bottom")
    layer(view, "middle", "bottom")
    view.snapshotter().view("top", "middle", {ROOT: "now"})
    layer(view, "loose")
    storage.collector.collect()
    assert blobs(view) == {kept}
    assert snapshots(view) == {"bottom", "middle", "top"}


def test_a_container_keeps_its_snapshot(view: View, storage: Storage) -> None:
    layer(view, "base")
    view.snapshotter().prepare("rootfs", "base")
    view.snapshotter().prepare("volume", labels={f"{BREF}.container/x": "c"})
    noted = put(view, b"noted").digest
    view.containers.create(container("c", {f"{REF}.content/x": noted}, snapshotter="native", snapshot_key="rootfs"))
    storage.collector.collect()
    assert snapshots(view) == {"base", "rootfs", "volume"}
    assert blobs(view) == {noted}
    view.containers.delete("c")
    storage.collector.collect()
    assert (snapshots(view), blobs(view)) == (set(), set())


def test_a_sandbox_keeps_what_its_labels_name(view: View, storage: Storage) -> None:
    kept = put(view, b"kept").digest
    layer(view, "kept")
    labels = {f"{REF}.content": kept, f"{REF}.snapshot.native": "kept"}
    view.sandboxes.create(Sandbox("s", container("c").runtime, labels=labels))
    storage.collector.collect()
    assert (blobs(view), snapshots(view)) == ({kept}, {"kept"})
    view.sandboxes.delete("s")
    storage.collector.collect()
    assert (blobs(view), snapshots(view)) == (set(), set())


def test_back_references(view: View, storage: Storage) -> None:
    root = put(view, b"root", {ROOT: "now"}).digest
    child = put(view, b"child", {f"{BREF}.content": root}).digest
    grandchild = put(view, b"grandchild", {f"{BREF}.content.x": child}).digest
    by_image = put(view, b"referrer", {f"{BREF}.image/a": "img"}).digest
    orphan = put(view, b"orphan", {f"{BREF}.content": digest_of(b"never seen")}).digest
    layer(view, "chain", labels={f"{BREF}.content": grandchild})
    layer(view, "cache", labels={f"{BREF}.snapshot.native/x": "chain"})
    view.images.create(image("img", root))
    storage.collector.collect()
    assert blobs(view) == {root, child, grandchild, by_image}
    assert orphan not in blobs(view)
    assert snapshots(view) == {"chain", "cache"}
    view.images.delete("img")
    storage.collector.collect()
    assert blobs(view) == {root, child, grandchild}


def test_an_expiring_image(view: View, storage: Storage) -> None:
    digest = put(view, b"target").digest
    view.images.create(image("later", digest, {EXPIRE: FUTURE}))
    view.images.create(image("past", digest, {EXPIRE: PAST}))
    view.images.create(image("past but referred to", digest, {EXPIRE: PAST}))
    view.images.create(image("refers", digest, {f"{REF}.image": "past but referred to"}))
    storage.bus.take()
    storage.collector.collect()
    assert [found.name for found in view.images.list()] == ["later", "past but referred to", "refers"]
    assert storage.bus.take() == [("one", "/images/delete")]


def test_a_lease_keeps_what_it_holds_and_what_that_refers_to(storage: Storage, view: View) -> None:
    view.leases.create("l")
    leased = storage.bind("one", "l")
    manifest, config, blob = put_image(leased)
    view.images.delete("img")
    leased.content.writer("unfinished").close()
    storage.collector.collect()
    assert blobs(view) == {manifest, config, blob}
    assert snapshots(view) == {"base-img", "chain-img"}
    assert [status.ref for status in view.content.statuses()] == ["unfinished"]
    view.leases.delete("l", sync=True)
    assert (blobs(view), snapshots(view), view.content.statuses()) == (set(), set(), [])
    assert list(storage.content.walk()) == []
    assert storage.content.statuses() == []
    assert list(storage.native.walk()) == []


def test_a_lease_that_only_names_the_manifest(view: View, storage: Storage) -> None:
    manifest, config, blob = put_image(view)
    view.images.delete("img")
    view.leases.create("deep")
    view.leases.add_resource("deep", Resource(manifest, "content"))
    storage.collector.collect()
    assert blobs(view) == {manifest, config, blob}
    assert snapshots(view) == {"base-img", "chain-img"}
    view.leases.create("flat", {FLAT: "yes"})
    view.leases.add_resource("flat", Resource(manifest, "content"))
    view.leases.add_resource("flat", Resource("chain-img", "snapshots/native"))
    view.leases.delete("deep")
    storage.collector.collect()
    assert blobs(view) == {manifest}
    assert snapshots(view) == {"base-img", "chain-img"}, "a snapshot cannot be without its parents"


def test_an_expired_lease_is_none(view: View, storage: Storage) -> None:
    view.leases.create("past", {EXPIRE: PAST})
    view.leases.create("later", {EXPIRE: FUTURE})
    view.leases.create("unreadable", {EXPIRE: "soon"})
    gone = put(storage.bind("one", "past"), b"gone").digest
    kept = put(storage.bind("one", "later"), b"kept").digest
    storage.collector.collect()
    assert [lease.id for lease in view.leases.list()] == ["later", "unreadable"]
    assert blobs(view) == {kept}
    assert gone not in {info.digest for info in storage.content.walk()}


def test_a_leased_image_that_has_expired_stays(view: View, storage: Storage) -> None:
    digest = put(view, b"target").digest
    view.leases.create("l")
    storage.bind("one", "l").images.create(image("img", digest, {EXPIRE: PAST}))
    storage.collector.collect()
    assert [found.name for found in view.images.list()] == ["img"]
    assert blobs(view) == {digest}
    view.leases.delete("l", sync=True)
    assert (view.images.list(), blobs(view)) == ([], set())


def test_an_unleased_ingest_has_a_day(view: View, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    view.content.writer("unfinished").close()
    with view.content.writer("open") as writer:
        writer.write(b"x")
        storage.collector.collect()
        assert len(view.content.statuses()) == 2
        tomorrow = datetime.now(UTC) + timedelta(hours=25)
        with monkeypatch.context() as later:
            later.setattr("mooraged.gc.scan.datetime", type("Later", (), {"now": staticmethod(lambda zone: tomorrow)}))
            storage.collector.collect()
        assert [status.ref for status in view.content.statuses()] == ["open"], "it is being written"
        assert len(storage.content.statuses()) == 1


def test_namespaces_keep_only_their_own(view: View, other: View, storage: Storage) -> None:
    digest = put(view, b"shared on disk").digest
    put(other, b"shared on disk")
    other.images.create(image("img", digest))
    storage.collector.collect()
    assert (blobs(view), blobs(other)) == (set(), {digest})
    assert [info.digest for info in storage.content.walk()] == [digest]
    other.images.delete("img")
    storage.collector.collect()
    assert list(storage.content.walk()) == []


def test_orphans_in_the_backends_go_with_the_first_collection(storage: Storage, view: View) -> None:
    """What a crash between a backend's step and the database's leaves."""
    kept = put(view, b"kept", {ROOT: "now"}).digest
    with storage.content.writer("blob") as writer:
        writer.write(b"orphan")
        writer.commit()
    storage.content.writer("ingest").close()
    storage.native.prepare("one/1/active")
    storage.native.commit("one/2/base", "one/1/active")
    storage.native.prepare("one/3/on it", "one/2/base")
    storage.native.prepare("one/4/on it too", "one/2/base")
    storage.restart()
    stats = storage.collector.collect()
    assert (stats.blobs, stats.ingests, stats.snapshots) == (1, 1, 3)
    assert [info.digest for info in storage.content.walk()] == [kept]
    assert list(storage.native.walk()) == []


def test_what_is_in_the_making_is_not_an_orphan(storage: Storage, view: View) -> None:
    """A collection between a backend's step and the database's."""
    seen: list[Stats] = []
    collecting = Collecting(storage, seen)
    storage.metadata.backend = collecting  # type: ignore[assignment]
    put(view, b"data", {ROOT: "now"})
    assert len(seen) == 1
    assert seen[0].blobs == 0
    with view.content.open(digest_of(b"data")) as reader:
        assert reader.pread(10, 0) == b"data"


class Collecting:
    """A content store that lets a collection run right after each commit."""

    def __init__(self, storage: Storage, seen: list[Stats]) -> None:
        self._storage = storage
        self._seen = seen

    def writer(self, ref: str, total: int = 0, expected: str = "") -> CollectingWriter:
        return CollectingWriter(self._storage, self._seen, self._storage.content.writer(ref, total, expected))

    def walk(self, filters: tuple[str, ...] = ()) -> Iterator[object]:
        return iter(self._storage.content.walk(filters))

    def statuses(self, filters: tuple[str, ...] = ()) -> object:
        return self._storage.content.statuses(filters)

    def delete(self, digest: str) -> None:
        self._storage.content.delete(digest)

    def abort(self, ref: str) -> None:
        self._storage.content.abort(ref)

    def open(self, digest: str) -> object:
        return self._storage.content.open(digest)


class CollectingWriter:
    """Commits, then collects, then returns."""

    def __init__(self, storage: Storage, seen: list[Stats], writer: object) -> None:
        self._storage = storage
        self._seen = seen
        self._writer = writer

    def commit(self, size: int = 0, expected: str = "", labels: object = None) -> object:
        info = self._writer.commit(size, expected)  # type: ignore[attr-defined]
        self._seen.append(self._storage.collector.collect())
        return info

    def status(self) -> object:
        return self._writer.status()  # type: ignore[attr-defined]

    def digest(self) -> object:
        return self._writer.digest()  # type: ignore[attr-defined]

    def write(self, data: bytes) -> object:
        return self._writer.write(data)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._writer.close()  # type: ignore[attr-defined]


def test_a_backend_that_fails_is_tried_again(
    storage: Storage, view: View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digest = put(view, b"loose").digest

    def refuses(digest: str) -> None:
        raise MoorageError("the disk is away")

    with monkeypatch.context() as broken:
        broken.setattr(storage.content, "delete", refuses)
        assert storage.collector.collect().blobs == 0
    assert "the disk is away" in caplog.text
    assert [info.digest for info in storage.content.walk()] == [digest]
    with pytest.raises(NotFound):
        view.content.info(digest)
    assert storage.collector.collect().blobs == 1


def test_snapshots_that_cannot_be_removed_together_go_one_by_one(
    storage: Storage, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "stuck", "two"):
        layer(view, name)
    remove = storage.native.remove

    def refuses(keys: Sequence[str]) -> list[str]:
        raise MoorageError(f"not all {len(keys)} of them")

    def removes(key: str) -> None:
        if key.endswith("stuck"):
            raise MoorageError("the disk is away")
        remove(key)

    with monkeypatch.context() as broken:
        broken.setattr(storage.native, "remove_all", refuses)
        broken.setattr(storage.native, "remove", removes)
        assert storage.collector.collect().snapshots == 2
    (left,) = storage.native.walk()
    assert left.name.endswith("stuck")
    assert storage.collector.collect().snapshots == 1


def test_a_commit_under_way_keeps_its_snapshot(storage: Storage, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unleased active snapshot is garbage, but not between the two steps of its commit."""
    commit = storage.native.commit

    def collects_first(name: str, key: str, labels: object = None) -> None:
        assert "snapshot" not in storage.collector.collect().records
        commit(name, key)

    view.snapshotter().prepare("key")
    monkeypatch.setattr(storage.native, "commit", collects_first)
    view.snapshotter().commit("name", "key", {ROOT: "now"})
    storage.collector.collect()
    assert snapshots(view) == {"name"}


def test_a_snapshot_in_use_in_the_backend_waits(storage: Storage, view: View) -> None:
    layer(view, "base")
    (base,) = storage.native.walk()
    storage.native.view("somebody else's", base.name)
    with storage.metadata.shared.gate.using("somebody else's"):
        assert storage.collector.collect().snapshots == 0
    assert storage.native.stat(base.name).kind is Kind.COMMITTED
    assert storage.collector.collect().snapshots == 2


def test_sync_needs_a_collector(storage: Storage, view: View) -> None:
    storage.metadata.shared.collectors.clear()
    view.leases.create("l")
    with pytest.raises(MoorageError, match="not running"):
        view.leases.delete("l", sync=True)


def test_labels_changed_later_count(storage: Storage, view: View) -> None:
    digest = put(view, b"data", {ROOT: "now"}).digest
    layer(view, "base", labels={})
    view.snapshotter().update(Info("base", Kind.COMMITTED, labels={ROOT: "now"}), [f"labels.{ROOT}"])
    storage.collector.collect()
    assert (blobs(view), snapshots(view)) == ({digest}, {"base"})
    with pytest.raises(FailedPrecondition):
        storage.metadata.namespaces.delete("one")
