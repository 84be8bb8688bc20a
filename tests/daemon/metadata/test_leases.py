"""Leases, and what is added to them without asking."""

from __future__ import annotations

import pytest

from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound
from moorage_api.leases import Resource
from mooraged.metadata import View
from support.storage import Storage, digest_of, image, layer, put


def held(view: View, lease: str = "l") -> list[tuple[str, str]]:
    return [(resource.type, resource.id) for resource in view.leases.resources(lease)]


@pytest.fixture
def leased(storage: Storage, view: View) -> View:
    """The namespace `one` under the lease `l`."""
    view.leases.create("l")
    return storage.bind("one", "l")


def test_life_of_a_lease(view: View, storage: Storage) -> None:
    lease = view.leases.create("mine", {"a": "1"})
    assert lease.created_at > 0
    with pytest.raises(AlreadyExists, match="mine"):
        view.leases.create("mine")
    named = view.leases.create()
    assert named.id
    assert view.leases.create().id != named.id
    assert view.leases.list(["labels.a"]) == [lease]
    assert view.leases.list(["id==mine"]) == [lease]
    storage.restart()
    leases = storage.bind("one").leases
    assert lease in leases.list()
    leases.delete("mine")
    for call in (leases.delete, leases.resources):
        with pytest.raises(NotFound, match=r"'mine'.*'one'"):
            call("mine")


def test_resources(view: View) -> None:
    view.leases.create("l")
    digest = digest_of(b"x")
    for resource in (
        Resource("key", "snapshots/native"),
        Resource(digest, "content"),
        Resource("ref", "ingests"),
        Resource("name", "images"),
        Resource(digest, "content"),
    ):
        view.leases.add_resource("l", resource)
    assert held(view) == [("content", digest), ("images", "name"), ("ingests", "ref"), ("snapshots/native", "key")]
    view.leases.delete_resource("l", Resource("ref", "ingests"))
    view.leases.delete_resource("l", Resource("never held", "ingests"))
    assert ("ingests", "ref") not in held(view)
    for call in (view.leases.add_resource, view.leases.delete_resource):
        with pytest.raises(NotFound, match="unknown"):
            call("unknown", Resource(digest, "content"))


@pytest.mark.parametrize(
    ("type", "id"),
    [
        ("content", "not-a-digest"),
        ("content/x", digest_of(b"")),
        ("snapshots", "key"),
        ("snapshots/", "key"),
        ("snapshots/a/b", "key"),
        ("containers", "c"),
        ("", "x"),
        ("ingests", ""),
    ],
)
def test_what_a_lease_cannot_hold(view: View, type: str, id: str) -> None:
    view.leases.create("l")
    with pytest.raises(InvalidArgument):
        view.leases.add_resource("l", Resource(id, type))
    assert held(view) == []


def test_what_is_written_under_a_lease_is_held_by_it(leased: View, view: View) -> None:
    digest = digest_of(b"data")
    writer = leased.content.writer("ref", 4, digest)
    assert held(view) == [("ingests", "ref")]
    writer.write(b"data")
    writer.commit(4, digest)
    assert held(view) == [("content", digest)]
    leased.snapshotter().prepare("active")
    leased.snapshotter().view("view")
    assert held(view)[1:] == [("snapshots/native", "active"), ("snapshots/native", "view")]
    leased.snapshotter().commit("base", "active")
    assert held(view)[1:] == [("snapshots/native", "base"), ("snapshots/native", "view")]
    leased.snapshotter().remove("view")
    leased.content.writer("given up").close()
    leased.content.abort("given up")
    leased.images.create(image("stays by itself", digest))
    leased.images.create(image("expires", digest, {"containerd.io/gc.expire": "2040-01-01T00:00:00Z"}))
    assert held(view) == [("content", digest), ("images", "expires"), ("snapshots/native", "base")]
    leased.images.delete("expires")
    leased.content.delete(digest)
    assert held(view) == [("snapshots/native", "base")]


def test_what_exists_already_is_held_too(leased: View, view: View) -> None:
    digest = put(view, b"data").digest
    layer(view, "base")
    view.snapshotter().prepare("active")
    with pytest.raises(AlreadyExists):
        leased.content.writer("ref", 4, digest)
    with pytest.raises(AlreadyExists):
        leased.snapshotter().prepare("new", labels={"containerd.io/snapshot.ref": "base"})
    with pytest.raises(AlreadyExists):
        leased.snapshotter().view("active")
    assert held(view) == [("content", digest), ("snapshots/native", "active"), ("snapshots/native", "base")]
    with leased.content.writer("unannounced") as writer:
        writer.write(b"data")
        with pytest.raises(AlreadyExists):
            writer.commit()
    leased.snapshotter().prepare("again")
    with pytest.raises(AlreadyExists):
        leased.snapshotter().commit("base", "again")
    assert held(view)[0] == ("content", digest)
    assert leased.snapshotter().stat("again").kind.value == "Active", "a commit that cannot be leaves it active"


def test_writing_under_a_lease_that_is_gone(storage: Storage, view: View) -> None:
    gone = storage.bind("one", "gone")
    put(view, b"data")
    calls = [
        lambda: gone.content.writer("ref"),
        lambda: gone.content.writer("ref", 4, digest_of(b"data")),
        lambda: gone.snapshotter().prepare("key"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match=r"lease 'gone' does not exist in namespace 'one'"):
            call()
    assert gone.content.statuses() == []
    assert list(storage.native.walk()) == []
    assert gone.images.list() == [], "reading asks no lease"


def test_leases_of_another_namespace_do_not_count(storage: Storage, leased: View) -> None:
    with pytest.raises(NotFound, match="'two'"):
        storage.bind("two", "l").content.writer("ref")
