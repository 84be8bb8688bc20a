"""Namespaces: made by hand or by writing, not removed while anything is in them."""

from __future__ import annotations

import pytest

from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage_api.sandboxes import Sandbox
from mooraged.metadata import View
from support.storage import Storage, container, digest_of, image, layer, put


def test_life_of_a_namespace(storage: Storage) -> None:
    namespaces = storage.metadata.namespaces
    namespaces.create("k8s.io", {"a": "1", "empty": ""})
    with pytest.raises(AlreadyExists, match="k8s"):
        namespaces.create("k8s.io")
    assert namespaces.labels("k8s.io") == {"a": "1"}
    assert namespaces.set_labels("k8s.io", {"b": "2"}) == {"a": "1", "b": "2"}
    assert namespaces.set_labels("k8s.io", {"a": ""}) == {"b": "2"}
    assert namespaces.set_labels("k8s.io", {"c": "3"}, replace=True) == {"c": "3"}
    with pytest.raises(InvalidArgument):
        namespaces.set_labels("k8s.io", {"k": "v" * 4096})
    namespaces.create("default")
    assert namespaces.list() == ["default", "k8s.io"]
    namespaces.delete("default")
    for call in (namespaces.labels, namespaces.delete):
        with pytest.raises(NotFound, match="default"):
            call("default")
    with pytest.raises(NotFound):
        namespaces.set_labels("default", {"a": "1"})
    topics = [topic for _, topic in storage.bus.take()]
    assert topics.count("/namespaces/create") == 2
    assert topics.count("/namespaces/update") == 3
    assert topics[-1] == "/namespaces/delete"


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a" * 77, "ü"])
def test_malformed_names(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidArgument):
        storage.metadata.namespaces.create(name)
    with pytest.raises(InvalidArgument):
        storage.metadata.bind(name)
    assert storage.metadata.namespaces.list() == []


def test_reading_makes_no_namespace_and_writing_does(storage: Storage, view: View) -> None:
    assert view.images.list() == []
    assert list(view.content.walk()) == []
    with pytest.raises(NotFound):
        view.snapshotter().stat("x")
    with pytest.raises(InvalidArgument):
        view.images.create(image("", ""))
    assert storage.metadata.namespaces.list() == []
    view.images.create(image("x", digest_of(b"x")))
    assert storage.metadata.namespaces.list() == ["one"]


def test_a_failed_write_makes_no_namespace(storage: Storage, view: View) -> None:
    with pytest.raises(NotFound):
        storage.bind("one", "no-such-lease").snapshotter().prepare("key")
    assert storage.metadata.namespaces.list() == []
    assert list(storage.native.walk()) == [], "nor a snapshot"


def test_a_namespace_with_things_in_it_stays(storage: Storage, view: View) -> None:
    layer(view, "base")
    view.snapshotter().prepare("active", "base")
    put(view, b"blob")
    view.images.create(image("x", digest_of(b"blob")))
    view.containers.create(container("c"))
    view.leases.create("l")
    view.sandboxes.create(Sandbox("s", container("c").runtime))
    with pytest.raises(FailedPrecondition, match="1 images, 1 containers, 1 blobs, 2 snapshots, 1 leases, 1 sandboxes"):
        storage.metadata.namespaces.delete("one")
    view.containers.delete("c")
    view.sandboxes.delete("s")
    view.images.delete("x")
    view.leases.delete("l")
    view.snapshotter().remove("active")
    with pytest.raises(FailedPrecondition, match=r"still has 1 blobs, 1 snapshots$"):
        storage.metadata.namespaces.delete("one")
    view.content.writer("unfinished").close()
    storage.collector.collect()
    storage.metadata.namespaces.delete("one")
    assert storage.metadata.namespaces.list() == []
    storage.collector.collect()
    assert storage.content.statuses() == [], "what was being written goes with the namespace"
