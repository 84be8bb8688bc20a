"""Containers and sandboxes: records, masks, the name that is unique."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moorage_api.containers import Container, Runtime
from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound
from moorage_api.sandboxes import Sandbox
from moorage_api.types import TypedValue
from mooraged.metadata import View
from support.storage import Storage, container

NAME = "moorage.io/name"
VALUE = TypedValue("type.url/X", b"\x00\xffbytes")


def test_life_of_a_container(view: View, storage: Storage) -> None:
    given = Container(
        "c1",
        Runtime("io.containerd.runc.v2", VALUE),
        VALUE,
        image="busybox",
        snapshotter="native",
        snapshot_key="key",
        labels={"a": "1"},
        extensions={"x.y": VALUE},
        sandbox_id="pod",
    )
    created = view.containers.create(given)
    assert replace(created, created_at=0, updated_at=0) == given
    assert view.containers.get("c1") == created
    with pytest.raises(AlreadyExists, match="c1"):
        view.containers.create(given)
    storage.restart()
    containers = storage.bind("one").containers
    assert containers.list() == [created]
    containers.delete("c1")
    for call in (containers.get, containers.delete):
        with pytest.raises(NotFound, match=r"'c1'.*'one'"):
            call("c1")
    assert storage.bus.take() == [("one", "/containers/create"), ("one", "/containers/delete")]


def test_a_name_has_one_holder(view: View, other: View) -> None:
    view.containers.create(container("c1", {NAME: "web"}))
    with pytest.raises(AlreadyExists, match="'web' is in use by container c1"):
        view.containers.create(container("c2", {NAME: "web"}))
    other.containers.create(container("c2", {NAME: "web"}))
    view.containers.create(container("c2", {NAME: "db"}))
    with pytest.raises(AlreadyExists, match="'web' is in use by container c1"):
        view.containers.update(container("c2", {NAME: "web"}), [f"labels.{NAME}"])
    view.containers.update(container("c1", {NAME: "old"}), [f"labels.{NAME}"])
    view.containers.update(container("c2", {NAME: "web"}), [f"labels.{NAME}"])
    view.containers.delete("c2")
    view.containers.create(container("c3", {NAME: "web"}))
    view.containers.update(container("c3"))
    view.containers.create(container("c4", {NAME: "web"}))


def test_container_masks(view: View) -> None:
    view.containers.create(container("c", {"a": "1"}, snapshotter="native", snapshot_key="k"))
    given = Container(
        "c", Runtime("io.containerd.runc.v2", VALUE), VALUE, "img", "native", "k2", {"b.c": "2"}, {"e.f": VALUE}
    )
    assert view.containers.update(given, ["image"]).image == "img"
    assert view.containers.update(given, ["snapshot_key"]).snapshot_key == "k2"
    assert view.containers.update(replace(given, snapshot_key="k3"), ["snapshotkey"]).snapshot_key == "k3"
    assert view.containers.update(given, ["runtime.options"]).runtime.options == VALUE
    assert dict(view.containers.update(given, ["labels.b.c"]).labels) == {"a": "1", "b.c": "2"}
    assert dict(view.containers.update(given, ["extensions.e.f"]).extensions) == {"e.f": VALUE}
    assert view.containers.update(given, ["spec"]).spec == VALUE
    whole = view.containers.update(replace(given, labels={}, extensions={}))
    assert (dict(whole.labels), dict(whole.extensions), whole.snapshot_key) == ({}, {}, "k2")
    for path in ("id", "runtime.name", "snapshotter", "sandbox_id", "created_at"):
        with pytest.raises(InvalidArgument, match=path):
            view.containers.update(given, [path])
    with pytest.raises(InvalidArgument, match=r"runtime\.name"):
        view.containers.update(replace(given, runtime=Runtime("other")))
    with pytest.raises(InvalidArgument, match="snapshotter"):
        view.containers.update(replace(given, snapshotter="other"))
    with pytest.raises(NotFound):
        view.containers.update(container("unknown"))


@pytest.mark.parametrize(
    "bad",
    [
        container(""),
        container("a/b"),
        container("a" * 77),
        container("-a"),
        replace(container("c"), runtime=Runtime("")),
        container("c", snapshot_key="without snapshotter"),
        replace(container("c"), extensions={"": VALUE}),
        container("c", {"k": "v" * 4096}),
    ],
)
def test_what_a_container_cannot_be(view: View, bad: Container) -> None:
    with pytest.raises(InvalidArgument):
        view.containers.create(bad)
    assert view.containers.list() == []


def test_containers_are_listed_by_creation(view: View) -> None:
    for id in ("z", "m", "a"):
        view.containers.create(container(id, {"id": id}, image=f"img-{id}", sandbox_id="pod"))
    assert [found.id for found in view.containers.list()] == ["z", "m", "a"]
    assert [found.id for found in view.containers.list(["image==img-a", "labels.id==z"])] == ["z", "a"]
    assert len(view.containers.list(["runtime.name==io.containerd.runc.v2,sandbox_id==pod"])) == 3


def test_life_of_a_sandbox(view: View, storage: Storage) -> None:
    given = Sandbox("s1", Runtime("rt", VALUE), VALUE, {"a": "1"}, {"x": VALUE}, "podsandbox")
    created = view.sandboxes.create(given)
    assert replace(created, created_at=0, updated_at=0) == given
    with pytest.raises(AlreadyExists):
        view.sandboxes.create(given)
    storage.restart()
    sandboxes = storage.bind("one").sandboxes
    assert sandboxes.get("s1") == created
    assert sandboxes.list(["sandboxer==podsandbox"]) == [created]
    changed = Sandbox("s1", Runtime("rt"), None, {"b": "2"}, {"y": VALUE})
    assert dict(sandboxes.update(changed, ["labels.b"]).labels) == {"a": "1", "b": "2"}
    assert dict(sandboxes.update(changed, ["extensions.y"]).extensions) == {"x": VALUE, "y": VALUE}
    assert sandboxes.update(changed, ["runtime.options"]).runtime.options is None
    assert sandboxes.update(changed).spec is None
    for path in ("sandboxer", "id", "runtime.name"):
        with pytest.raises(InvalidArgument, match=path):
            sandboxes.update(changed, [path])
    with pytest.raises(InvalidArgument, match=r"runtime\.name"):
        sandboxes.update(replace(changed, runtime=Runtime("other")))
    sandboxes.delete("s1")
    for call in (sandboxes.get, sandboxes.delete):
        with pytest.raises(NotFound, match="s1"):
            call("s1")
    with pytest.raises(InvalidArgument):
        sandboxes.create(replace(given, id="../x"))
