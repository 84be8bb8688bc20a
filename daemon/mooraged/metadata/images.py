"""Images of a namespace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from moorage_api import adaptors
from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound
from moorage_api.fieldpaths import immutable, merge, split, without_empty
from moorage_api.filters import parse
from moorage_api.images import Image
from moorage_api.types import Descriptor, check_digest
from moorage_api.wire import images_pb2 as events
from mooraged.metadata import resources, schema
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

_rows = Rows(schema.images, "name")
_EXPIRES = "containerd.io/gc.expire"


class Images:
    """`moorage_api.images.ImageStore` over the database."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def get(self, name: str) -> Image:
        row = self._scope.read(lambda connection: _rows.get(connection, self._scope.namespace, name))
        if row is None:
            raise self._missing(name)
        return _image(row)

    def list(self, filters: Sequence[str] = ()) -> list[Image]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: _rows.all(connection, self._scope.namespace))
        return [image for image in map(_image, rows) if accepted.matches(adaptors.image(image))]

    def create(self, image: Image) -> Image:
        now = time.time_ns()
        created = replace(_checked(image), created_at=now, updated_at=now)

        def work(connection: Connection) -> None:
            self._hold_if_expiring(connection, created)
            if not _rows.insert(connection, {"namespace": self._scope.namespace, **_values(created)}):
                raise AlreadyExists(f"image {image.name!r} already exists in namespace {self._scope.namespace!r}")

        self._scope.write(work)
        self._scope.publish("/images/create", events.ImageCreate(name=created.name, labels=created.labels))
        return created

    def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        def work(connection: Connection) -> Image:
            row = _rows.get(connection, self._scope.namespace, image.name)
            if row is None:
                raise self._missing(image.name)
            current = _image(row)
            updated = _checked(_updated(current, image, fieldpaths))
            updated = replace(updated, created_at=current.created_at, updated_at=time.time_ns())
            self._hold_if_expiring(connection, updated)
            _rows.update(connection, self._scope.namespace, image.name, _values(updated))
            return updated

        # An update may take references away (another target, fewer labels).
        updated = self._scope.remove(work)
        self._scope.publish("/images/update", events.ImageUpdate(name=updated.name, labels=updated.labels))
        return updated

    def delete(self, name: str, target: str = "") -> None:
        def work(connection: Connection) -> None:
            row = _rows.get(connection, self._scope.namespace, name)
            if row is None:
                raise self._missing(name)
            if target and row.digest != target:
                raise NotFound(
                    f"image {name!r} in namespace {self._scope.namespace!r} points at {row.digest}, not at {target}"
                )
            _rows.delete(connection, self._scope.namespace, name)
            self._scope.release(connection, resources.IMAGES, name)

        self._scope.remove(work)
        self._scope.publish("/images/delete", events.ImageDelete(name=name))

    def _hold_if_expiring(self, connection: Connection, image: Image) -> None:
        """An image is a root of its own unless it expires; then the lease keeps it beyond that."""
        if _EXPIRES in image.labels:
            self._scope.hold(connection, resources.IMAGES, image.name)

    def _missing(self, name: str) -> MoorageError:
        return NotFound(f"image {name!r} does not exist in namespace {self._scope.namespace!r}")


def _updated(current: Image, given: Image, fieldpaths: Sequence[str]) -> Image:
    if not fieldpaths:
        return given
    labels, target = current.labels, current.target
    for path in fieldpaths:
        field, key = split(path)
        if field == "labels":
            labels = merge(labels, given.labels, key)
        elif path == "target":
            target = given.target
        elif field == "annotations":
            target = replace(target, annotations=merge(target.annotations, given.target.annotations, key))
        else:
            raise immutable(path, f"image {given.name!r}")
    return replace(current, labels=labels, target=target)


def _checked(image: Image) -> Image:
    """The image as it is stored; `InvalidArgument` for what cannot be."""
    if not image.name:
        raise InvalidArgument("the name of an image must not be empty")
    check_digest(image.target.digest)
    if image.target.size <= 0:
        raise InvalidArgument(f"target size {image.target.size} of image {image.name!r} must be greater than zero")
    if not image.target.media_type:
        raise InvalidArgument(f"the target of image {image.name!r} needs a media type")
    return replace(image, labels=without_empty(image.labels))


def _values(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.target.digest,
        "media_type": image.target.media_type,
        "size": image.target.size,
        "annotations": image.target.annotations,
        "labels": image.labels,
        "created_at": image.created_at,
        "updated_at": image.updated_at,
    }


def _image(row: AnyRow) -> Image:
    target = Descriptor(row.media_type, row.digest, row.size, row.annotations)
    return Image(row.name, target, row.labels, row.created_at, row.updated_at)
