"""Namespaces."""

from __future__ import annotations

import time

from sqlalchemy import Connection, bindparam, delete, func, literal, select, union_all, update
from sqlalchemy.dialects.sqlite import insert

from moorage_api.errors import AlreadyExists, FailedPrecondition, MoorageError, NotFound
from moorage_api.fieldpaths import without_empty
from moorage_api.types import Labels, check_identifier, check_labels
from moorage_api.wire import events_types_pb2 as events
from mooraged.metadata import schema
from mooraged.metadata.scope import Shared

_table = schema.namespaces
_this = _table.c.name == bindparam("at_name")
_get = select(_table.c.labels).where(_this)
_all = select(_table.c.name).order_by(_table.c.name)
_insert = insert(_table).on_conflict_do_nothing()
_update = update(_table).where(_this)
_delete = delete(_table).where(_this)
_delete_ingests = delete(schema.ingests).where(schema.ingests.c.namespace == bindparam("at_name"))
_contents = union_all(
    *(
        select(literal(what).label("what"), func.count().label("number"))
        .select_from(table)
        .where(table.c.namespace == bindparam("at_name"))
        for what, table in (
            ("images", schema.images),
            ("containers", schema.containers),
            ("blobs", schema.blobs),
            ("snapshots", schema.snapshots),
            ("leases", schema.leases),
            ("sandboxes", schema.sandboxes),
        )
    )
)


class Namespaces:
    """`moorage_api.namespaces.NamespaceStore` over the database."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def create(self, name: str, labels: Labels | None = None) -> None:
        check_identifier(name, "namespace")
        kept = without_empty(labels or {})

        def work(connection: Connection) -> None:
            values = {"name": name, "labels": kept, "created_at": time.time_ns()}
            if connection.execute(_insert, values).rowcount == 0:
                raise AlreadyExists(f"namespace {name!r} already exists")

        self._shared.database.write(work)
        self._shared.publish(name, "/namespaces/create", events.NamespaceCreate(name=name, labels=kept))

    def labels(self, name: str) -> dict[str, str]:
        return self._shared.database.read(lambda connection: _labels(connection, name))

    def set_labels(self, name: str, labels: Labels, *, replace: bool = False) -> dict[str, str]:
        check_labels(labels)

        def work(connection: Connection) -> dict[str, str]:
            current = _labels(connection, name)
            kept = without_empty(labels if replace else {**current, **labels})
            connection.execute(_update, {"at_name": name, "labels": kept})
            return kept

        kept = self._shared.database.write(work)
        self._shared.publish(name, "/namespaces/update", events.NamespaceUpdate(name=name, labels=kept))
        return kept

    def list(self) -> list[str]:
        return self._shared.database.read(lambda connection: list(connection.execute(_all).scalars()))

    def delete(self, name: str) -> None:
        def work(connection: Connection) -> None:
            _labels(connection, name)
            left = [
                f"{row.number} {row.what}" for row in connection.execute(_contents, {"at_name": name}) if row.number
            ]
            if left:
                raise FailedPrecondition(f"namespace {name!r} must be empty, but still has {', '.join(left)}")
            connection.execute(_delete_ingests, {"at_name": name})
            connection.execute(_delete, {"at_name": name})

        self._shared.database.write(work)
        self._shared.dirty.add("content")
        self._shared.mutated(removed=True)
        self._shared.publish(name, "/namespaces/delete", events.NamespaceDelete(name=name))


def _labels(connection: Connection, name: str) -> dict[str, str]:
    row = connection.execute(_get, {"at_name": name}).first()
    if row is None:
        raise _missing(name)
    labels: dict[str, str] = row.labels
    return labels


def _missing(name: str) -> MoorageError:
    return NotFound(f"namespace {name!r} does not exist")
