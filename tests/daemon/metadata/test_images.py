"""Images: names, targets, masks, events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound
from moorage_api.images import Image
from mooraged.metadata import View
from support.storage import Storage, digest_of, image

TARGET = digest_of(b"manifest")


def test_life_of_an_image(view: View, storage: Storage) -> None:
    created = view.images.create(image("docker.io/library/busybox:latest", TARGET, {"a": "1", "empty": ""}))
    assert created.created_at == created.updated_at > 0
    assert dict(created.labels) == {"a": "1"}
    assert view.images.get(created.name) == created
    with pytest.raises(AlreadyExists, match="busybox"):
        view.images.create(image(created.name, TARGET))
    storage.restart()
    images = storage.bind("one").images
    assert images.list() == [created]
    images.delete(created.name)
    with pytest.raises(NotFound, match="busybox"):
        images.get(created.name)
    assert images.list() == []
    assert storage.bus.take() == [("one", "/images/create"), ("one", "/images/delete")]


def test_masks(view: View) -> None:
    view.images.create(image("x", TARGET, {"a": "1", "b.c": "2"}))
    other = digest_of(b"other")
    given = Image("x", replace(image("x", other).target, annotations={"n": "v"}), {"b.c": "3", "d": "4"})
    updated = view.images.update(given, ["labels.b.c", "annotations.n"])
    assert dict(updated.labels) == {"a": "1", "b.c": "3"}
    assert (updated.target.digest, dict(updated.target.annotations)) == (TARGET, {"n": "v"})
    assert view.images.update(given, ["target"]).target == given.target
    assert dict(view.images.update(given).labels) == {"b.c": "3", "d": "4"}
    assert dict(view.images.update(replace(given, labels={}), ["labels.d"]).labels) == {"b.c": "3"}
    assert view.images.get("x").created_at < view.images.get("x").updated_at
    for path in ("name", "created_at", "target.digest"):
        with pytest.raises(InvalidArgument, match=path):
            view.images.update(given, [path])
    with pytest.raises(NotFound):
        view.images.update(image("unknown", TARGET))


@pytest.mark.parametrize(
    "bad",
    [
        image("", TARGET),
        image("x", "sha256:short"),
        replace(image("x", TARGET), target=replace(image("x", TARGET).target, size=0)),
        replace(image("x", TARGET), target=replace(image("x", TARGET).target, media_type="")),
        image("x", TARGET, {"k": "v" * 4096}),
        image("x", TARGET, {"": "v"}),
    ],
)
def test_what_an_image_cannot_be(view: View, bad: Image) -> None:
    with pytest.raises(InvalidArgument):
        view.images.create(bad)
    assert view.images.list() == []


def test_filters(view: View) -> None:
    for name in ("c", "a", "b"):
        view.images.create(image(name, digest_of(name.encode()), {"is": name}))
    assert [found.name for found in view.images.list()] == ["a", "b", "c"]
    assert [found.name for found in view.images.list(["name==b", "labels.is==c"])] == ["b", "c"]
    assert [found.name for found in view.images.list([f"target.digest=={digest_of(b'a')}"])] == ["a"]
    assert len(view.images.list(["target.mediatype~=manifest"])) == 3
    with pytest.raises(InvalidArgument, match="position 6"):
        view.images.list(["name=="])


def test_delete_if_it_still_points_there(view: View) -> None:
    view.images.create(image("x", TARGET))
    with pytest.raises(NotFound, match="points at"):
        view.images.delete("x", digest_of(b"other"))
    view.images.delete("x", TARGET)
    with pytest.raises(NotFound):
        view.images.delete("x")
