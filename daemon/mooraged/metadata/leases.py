"""Leases of a namespace."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from moorage_api import adaptors
from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound
from moorage_api.fieldpaths import without_empty
from moorage_api.filters import parse
from moorage_api.leases import Lease, Resource
from moorage_api.types import Labels, check_digest
from mooraged.metadata import resources, schema
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

_rows = Rows(schema.leases, "id")


class Leases:
    """`moorage_api.leases.LeaseManager` over the database."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def create(self, id: str = "", labels: Labels | None = None) -> Lease:
        lease = Lease(id or f"{time.time_ns()}-{secrets.token_hex(4)}", without_empty(labels or {}), time.time_ns())

        def work(connection: Connection) -> None:
            values = {"id": lease.id, "labels": lease.labels, "created_at": lease.created_at}
            if not _rows.insert(connection, {"namespace": self._scope.namespace, **values}):
                raise AlreadyExists(f"lease {lease.id!r} already exists in namespace {self._scope.namespace!r}")

        self._scope.write(work)
        return lease

    def delete(self, id: str, *, sync: bool = False) -> None:
        def work(connection: Connection) -> None:
            if not _rows.delete(connection, self._scope.namespace, id):
                raise NotFound(f"lease {id!r} does not exist in namespace {self._scope.namespace!r}")

        self._scope.remove(work)
        if sync:
            self._scope.shared.collect()

    def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: _rows.all(connection, self._scope.namespace))
        return [lease for lease in map(_lease, rows) if accepted.matches(adaptors.lease(lease))]

    def add_resource(self, id: str, resource: Resource) -> None:
        _check(resource)

        def work(connection: Connection) -> None:
            resources.check_lease(connection, self._scope.namespace, id)
            resources.add(connection, self._scope.namespace, id, resource.type, resource.id)

        self._scope.write(work)

    def delete_resource(self, id: str, resource: Resource) -> None:
        _check(resource)

        def work(connection: Connection) -> None:
            resources.check_lease(connection, self._scope.namespace, id)
            resources.delete(connection, self._scope.namespace, id, resource.type, resource.id)

        self._scope.remove(work)

    def resources(self, id: str) -> Sequence[Resource]:
        def work(connection: Connection) -> Sequence[Resource]:
            resources.check_lease(connection, self._scope.namespace, id)
            return resources.of_lease(connection, self._scope.namespace, id)

        return self._scope.read(work)


def _check(resource: Resource) -> None:
    """`InvalidArgument` for a type that no lease holds, or an id that no such resource has."""
    kind, _, snapshotter = resource.type.partition("/")
    if resource.type not in (resources.CONTENT, resources.INGESTS, resources.IMAGES) and (
        kind != "snapshots" or not snapshotter or "/" in snapshotter
    ):
        raise InvalidArgument(
            f"a lease cannot hold a resource of type {resource.type!r}: "
            "expected content, ingests, images or snapshots/SNAPSHOTTER"
        )
    if resource.type == resources.CONTENT:
        check_digest(resource.id)
    elif not resource.id:
        raise InvalidArgument(f"a resource of type {resource.type!r} needs an id")


def _lease(row: AnyRow) -> Lease:
    return Lease(row.id, row.labels, row.created_at)
