"""Snapshots of namespaces over the native snapshotter: names, parents, labels, crashes, sharing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from moorage_api.mounts import Mount
from moorage_api.snapshots import Info, Kind, Snapshotter, Usage
from moorage_api.types import Labels
from mooraged.metadata import Metadata, SharingPolicy, View
from support.storage import Storage, layer

TARGET = "containerd.io/snapshot.ref"


def names(snapshotter: Snapshotter, *filters: str) -> list[str]:
    return [info.name for info in snapshotter.walk(filters)]


def test_is_a_snapshotter(view: View) -> None:
    assert isinstance(view.snapshotter(), Snapshotter)
    assert view.snapshotter().name == "native"
    with pytest.raises(NotFound, match="'zfs' does not exist: there are native"):
        view.snapshotter("zfs")


def test_life_of_a_snapshot(view: View, storage: Storage) -> None:
    snapshots = view.snapshotter()
    mounts = snapshots.prepare("key", labels={"a": "1", "containerd.io/snapshot/uidmapping": "0:1:2"})
    assert snapshots.mounts("key") == mounts
    info = snapshots.stat("key")
    assert (info.kind, info.parent, info.labels["a"]) == (Kind.ACTIVE, "", "1")
    (Path(mounts[0].source) / "file").write_text("content")
    assert snapshots.usage("key").inodes == 2
    snapshots.commit("base", "key", {"b": "2"})
    with pytest.raises(NotFound, match="'key'"):
        snapshots.stat("key")
    with pytest.raises(FailedPrecondition, match="'base'"):
        snapshots.mounts("base")
    mounts = snapshots.view("look", "base")
    assert (Path(mounts[0].source) / "file").read_text() == "content"
    with pytest.raises(FailedPrecondition, match="'look' stands on it"):
        snapshots.remove("base")
    storage.restart()
    snapshots = storage.bind("one").snapshotter()
    assert names(snapshots) == ["base", "look"]
    assert dict(snapshots.stat("base").labels) == {"b": "2"}
    assert snapshots.stat("look").parent == "base"
    snapshots.remove("look")
    snapshots.remove("base")
    assert names(snapshots) == []
    assert [topic for _, topic in storage.bus.take()] == [
        "/snapshot/prepare",
        "/snapshot/commit",
        "/snapshot/remove",
        "/snapshot/remove",
    ]


def test_the_backend_gets_its_labels_only(view: View, storage: Storage) -> None:
    mapping = {"containerd.io/snapshot/uidmapping": "0:1:2"}
    view.snapshotter().prepare("key", labels={"a": "1", **mapping})
    (info,) = storage.native.walk()
    assert info.name.startswith("one/")
    assert info.name.endswith("/key")
    assert dict(info.labels) == mapping
    view.snapshotter().update(Info("key", Kind.ACTIVE, labels={"a": "2"}), ["labels.a"])
    assert dict(storage.native.stat(info.name).labels) == mapping
    updated = view.snapshotter().update(Info("key", Kind.ACTIVE, labels={"b": "3"}))
    assert dict(updated.labels) == {"b": "3"}
    assert dict(storage.native.stat(info.name).labels) == {}


def test_bad_calls(view: View) -> None:
    snapshots = view.snapshotter()
    layer(view, "base")
    snapshots.prepare("active", "base")
    for bad, error, message in (
        (lambda: snapshots.prepare(""), InvalidArgument, "key"),
        (lambda: snapshots.prepare("x", "unknown"), NotFound, "parent snapshot 'unknown'.*'one'"),
        (lambda: snapshots.prepare("x", "active"), InvalidArgument, "'active'.*not committed"),
        (lambda: snapshots.prepare("active"), AlreadyExists, "'active'"),
        (lambda: snapshots.view("base"), AlreadyExists, "'base'"),
        (lambda: snapshots.prepare("x", labels={"k": "v" * 4096}), InvalidArgument, "4096"),
        (lambda: snapshots.commit("", "active"), InvalidArgument, "name"),
        (lambda: snapshots.commit("base", "active"), AlreadyExists, "'base'"),
        (lambda: snapshots.commit("active", "active"), AlreadyExists, "'active'"),
        (lambda: snapshots.commit("new", "base"), FailedPrecondition, "'base'.*not active"),
        (lambda: snapshots.commit("new", "unknown"), NotFound, "'unknown'"),
        (lambda: snapshots.remove("unknown"), NotFound, "'unknown'"),
        (lambda: snapshots.mounts("unknown"), NotFound, "'unknown'"),
        (lambda: snapshots.usage("unknown"), NotFound, "'unknown'"),
        (lambda: snapshots.update(Info("unknown", Kind.ACTIVE)), NotFound, "'unknown'"),
        (lambda: snapshots.update(Info("base", Kind.COMMITTED), ["parent"]), InvalidArgument, "parent"),
    ):
        with pytest.raises(error, match=message):
            bad()
    assert names(snapshots) == ["active", "base"]


def test_filters(view: View) -> None:
    layer(view, "base")
    view.snapshotter().prepare("active", "base", {"a": "1"})
    view.snapshotter().view("look", "base")
    assert names(view.snapshotter(), "kind==active", "name==base") == ["active", "base"]
    assert names(view.snapshotter(), "parent==base") == ["active", "look"]
    assert names(view.snapshotter(), 'parent==""') == ["base"]
    assert names(view.snapshotter(), "labels.a==1") == ["active"]


def test_namespaces_may_use_the_same_names(view: View, other: View, storage: Storage) -> None:
    layer(view, "base")
    layer(other, "base")
    view.snapshotter().remove("base")
    assert names(other.snapshotter()) == ["base"]
    assert len(list(storage.native.walk())) == 2, "the collector removes, not the client"
    with pytest.raises(NotFound):
        view.snapshotter().prepare("x", "base")


def test_a_name_can_be_used_again(view: View) -> None:
    for _ in range(3):
        layer(view, "base")
        view.snapshotter().remove("base")


def test_isolated_namespaces_unpack_for_themselves(view: View, other: View) -> None:
    layer(view, "chain")
    other.snapshotter().prepare("unpacking", labels={TARGET: "chain"})
    assert names(other.snapshotter()) == ["unpacking"]


def test_shared_namespaces_take_over_layers(tmp_path: Path) -> None:
    storage = Storage(tmp_path, SharingPolicy.SHARED)
    one, two = storage.bind("one"), storage.bind("two")
    layer(one, "chain1")
    layer(one, "chain2", "chain1")
    with pytest.raises(AlreadyExists, match=r"'chain1'.*'two'"):
        two.snapshotter().prepare("extract", labels={TARGET: "chain1"})
    with pytest.raises(AlreadyExists):
        two.snapshotter().prepare("extract", "chain1", labels={TARGET: "chain2"})
    assert names(two.snapshotter()) == ["chain1", "chain2"]
    assert two.snapshotter().stat("chain2").parent == "chain1"
    assert len(list(storage.native.walk())) == 2, "on disk once"
    three = storage.bind("three")
    three.snapshotter().prepare("extract", labels={TARGET: "chain2"})  # on another parent it is another layer
    one.snapshotter().remove("chain2")
    one.snapshotter().remove("chain1")
    two.leases.create("l")
    for name in ("chain1", "chain2"):
        two.snapshotter().update(Info(name, Kind.COMMITTED, labels={"containerd.io/gc.root": "now"}))
    storage.collector.collect()
    two.snapshotter().view("look", "chain2")
    storage.close()


class Faulty:
    """A snapshotter that fails, or dies, where it is told to."""

    def __init__(self, backend: Snapshotter) -> None:
        self._backend = backend
        self.before_commit: Exception | None = None
        self.after_commit: Exception | None = None
        self.remote: dict[str, Info] = {}

    def stat(self, key: str) -> Info:
        return self.remote.get(key) or self._backend.stat(key)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self._backend.update(info, fieldpaths)

    def usage(self, key: str) -> Usage:
        return self._backend.usage(key)

    def mounts(self, key: str) -> list[Mount]:
        return self._backend.mounts(key)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        if (labels or {}).get(TARGET, "").startswith("remote"):
            raise AlreadyExists("it is at the registry")
        return self._backend.prepare(key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return self._backend.view(key, parent, labels)

    def commit(self, name: str, key: str, labels: Labels | None = None) -> None:
        if self.before_commit:
            raise self.before_commit
        self._backend.commit(name, key, labels)
        if self.after_commit:
            raise self.after_commit

    def remove(self, key: str) -> None:
        self._backend.remove(key)

    def walk(self, filters: Sequence[str] = ()):
        yield from self.remote.values()
        yield from self._backend.walk()

    def cleanup(self) -> None:
        self._backend.cleanup()

    def close(self) -> None:
        self._backend.close()


@pytest.fixture
def faulty(storage: Storage) -> Faulty:
    storage.close()
    wrapper = Faulty(type(storage.native)(storage.folder / "native"))
    storage.native = wrapper  # type: ignore[assignment]
    storage.metadata = Metadata(storage.folder / "meta", storage.content, {"native": wrapper})
    return wrapper


def test_a_commit_that_fails_leaves_the_active_one(storage: Storage, faulty: Faulty) -> None:
    snapshots = storage.bind("one").snapshotter()
    snapshots.prepare("key")
    faulty.before_commit = Unavailable("the backend is away")
    with pytest.raises(Unavailable):
        snapshots.commit("name", "key", {"a": "1"})
    assert names(snapshots) == ["key"]
    faulty.before_commit = None
    snapshots.commit("name", "key", {"a": "1"})
    assert names(snapshots) == ["name"]


def test_a_commit_that_succeeds_and_says_otherwise_is_finished(storage: Storage, faulty: Faulty) -> None:
    snapshots = storage.bind("one").snapshotter()
    snapshots.prepare("key")
    faulty.after_commit = Unavailable("the answer was lost")
    with pytest.raises(Unavailable):
        snapshots.commit("name", "key", {"a": "1"})
    assert names(snapshots) == ["name"]
    assert dict(snapshots.stat("name").labels) == {"a": "1"}


class Killed(BaseException):
    """Stands for the death of the process: nothing runs after it."""


@pytest.mark.parametrize(("where", "left"), [("before_commit", "key"), ("after_commit", "name")])
def test_a_crash_in_a_commit_is_settled_at_the_next_start(
    storage: Storage, faulty: Faulty, monkeypatch: pytest.MonkeyPatch, where: str, left: str
) -> None:
    view = storage.bind("one")
    view.snapshotter().prepare("key")
    setattr(faulty, where, Killed())
    with monkeypatch.context() as dead:
        dead.setattr("mooraged.metadata.snapshots.NamespacedSnapshotter._settle", lambda *_: None)
        with pytest.raises(Killed):
            view.snapshotter().commit("name", "key", {"a": "1"})
    with pytest.raises(FailedPrecondition, match="being committed"):
        view.snapshotter().remove("key")
    with pytest.raises(AlreadyExists):
        view.snapshotter().prepare("name")
    storage.restart()
    snapshots = storage.bind("one").snapshotter()
    assert names(snapshots) == [left]
    assert snapshots.stat(left).kind is (Kind.ACTIVE if left == "key" else Kind.COMMITTED)
    if left == "key":
        snapshots.commit("name", "key", {"a": "1"})
    assert dict(snapshots.stat("name").labels) == {"a": "1"}
    snapshots.view("look", "name")


def test_a_remote_snapshotter_brings_its_own(storage: Storage, faulty: Faulty) -> None:
    snapshots = storage.bind("one").snapshotter()
    labels = {TARGET: "remote-1", "from": "registry"}
    with pytest.raises(NotFound, match="shows no such"):
        snapshots.prepare("extract", labels={TARGET: "remote-1"})
    faulty.remote["other"] = Info("other", Kind.COMMITTED, "elsewhere", {TARGET: "remote-1"})
    faulty.remote["there"] = Info("there", Kind.COMMITTED, "", labels)
    with pytest.raises(AlreadyExists, match="'remote-1'"):
        snapshots.prepare("extract", labels={TARGET: "remote-1", "mine": "x"})
    assert names(snapshots) == ["remote-1"]
    assert dict(snapshots.stat("remote-1").labels) == {**labels, "mine": "x"}
