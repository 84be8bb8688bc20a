"""Containers of a namespace: records, never processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, select

from moorage_api import adaptors
from moorage_api.containers import Container, Runtime
from moorage_api.errors import AlreadyExists, InvalidArgument
from moorage_api.fieldpaths import immutable, merge, split, without_empty
from moorage_api.types import check_identifier
from moorage_api.wire import events_types_pb2 as events
from mooraged.metadata import schema
from mooraged.metadata.records import Kind, Records
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

NAME_LABEL = "moorage.io/name"
"""The name that people use; unique in a namespace."""

_table = schema.containers
_rows = Rows(_table, "id", order=("created_at", "id"))
_holder_of_name = select(_table.c.id).where(
    _table.c.namespace == bindparam("at_namespace"), _table.c.name == bindparam("at_name")
)
_ALL_FIELDS = ("labels", "spec", "extensions", "image", "snapshot_key")


class Containers(Records[Container]):
    """`moorage_api.containers.ContainerStore` over the database."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, _KIND)

    def create(self, container: Container) -> Container:
        created = super().create(container)
        self._scope.publish("/containers/create", _create_event(created))
        return created

    def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        updated = super().update(container, fieldpaths)
        self._scope.publish(
            "/containers/update",
            events.ContainerUpdate(
                id=updated.id, image=updated.image, labels=updated.labels, snapshot_key=updated.snapshot_key
            ),
        )
        return updated

    def delete(self, id: str) -> None:
        super().delete(id)
        self._scope.publish("/containers/delete", events.ContainerDelete(id=id))

    def _claim(self, connection: Connection, record: Container) -> None:
        """The name, where it has one."""
        name = record.labels.get(NAME_LABEL)
        if name is None:
            return
        holder = connection.execute(
            _holder_of_name, {"at_namespace": self._scope.namespace, "at_name": name}
        ).scalar_one_or_none()
        if holder is not None and holder != record.id:
            raise AlreadyExists(f"container name {name!r} is in use by container {holder} in {self._here}")


def _updated(current: Container, given: Container, fieldpaths: Sequence[str]) -> Container:
    if not fieldpaths:
        _check_fixed(current, given)
    for path in fieldpaths or _ALL_FIELDS:
        field, key = split(path)
        if field == "labels":
            current = replace(current, labels=merge(current.labels, given.labels, key))
        elif field == "extensions":
            current = replace(current, extensions=merge(current.extensions, given.extensions, key))
        elif path == "spec":
            current = replace(current, spec=given.spec)
        elif path == "image":
            current = replace(current, image=given.image)
        elif path in ("snapshot_key", "snapshotkey"):  # containerd's clients write it as one word
            current = replace(current, snapshot_key=given.snapshot_key)
        elif path == "runtime.options":
            current = replace(current, runtime=replace(current.runtime, options=given.runtime.options))
        else:
            raise immutable(path, f"container {current.id!r}")
    return current


def _check_fixed(current: Container, given: Container) -> None:
    """`InvalidArgument` where an update of everything would change what cannot change."""
    for field, old, new in (
        ("snapshotter", current.snapshotter, given.snapshotter),
        ("runtime.name", current.runtime.name, given.runtime.name),
    ):
        if old != new:
            raise InvalidArgument(f"cannot change {field} of container {current.id!r} from {old!r} to {new!r}")


def _checked(container: Container) -> Container:
    """The container as it is stored; `InvalidArgument` for what cannot be."""
    check_identifier(container.id, "container id")
    if not container.runtime.name:
        raise InvalidArgument(f"container {container.id!r} needs the name of a runtime")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument(f"container {container.id!r} has a snapshot key, but no snapshotter")
    if "" in container.extensions:
        raise InvalidArgument(f"container {container.id!r} has an extension with an empty name")
    return replace(container, labels=without_empty(container.labels))


def _values(container: Container) -> dict[str, Any]:
    return {
        "id": container.id,
        "name": container.labels.get(NAME_LABEL),
        "image": container.image,
        "runtime": container.runtime.name,
        "runtime_options": container.runtime.options,
        "spec": container.spec,
        "snapshotter": container.snapshotter,
        "snapshot_key": container.snapshot_key,
        "labels": container.labels,
        "extensions": container.extensions,
        "sandbox_id": container.sandbox_id,
        "created_at": container.created_at,
        "updated_at": container.updated_at,
    }


def _container(row: AnyRow) -> Container:
    return Container(
        id=row.id,
        runtime=Runtime(row.runtime, row.runtime_options),
        spec=row.spec,
        image=row.image,
        snapshotter=row.snapshotter,
        snapshot_key=row.snapshot_key,
        labels=row.labels,
        extensions=row.extensions,
        sandbox_id=row.sandbox_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _create_event(container: Container) -> events.ContainerCreate:
    event = events.ContainerCreate(id=container.id, image=container.image)
    event.runtime.name = container.runtime.name
    if container.runtime.options is not None:
        event.runtime.options.type_url = container.runtime.options.type_url
        event.runtime.options.value = container.runtime.options.value
    return event


_KIND = Kind("container", _rows, _container, _values, adaptors.container, _checked, _updated)
