"""What leases hold: the rows behind every "added to the lease"."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.sqlite import insert

from moorage_api.errors import NotFound
from moorage_api.leases import Resource
from mooraged.metadata import schema
from mooraged.metadata.rows import Rows
from mooraged.metadata.statements import Statement

CONTENT = "content"
INGESTS = "ingests"
IMAGES = "images"
SNAPSHOTS = "snapshots/"
"""Followed by the snapshotter's name."""

_table = schema.lease_resources
_leases = Rows(schema.leases, "id")
_of_lease = (_table.c.namespace == bindparam("at_namespace"), _table.c.lease == bindparam("at_lease"))
_list = select(_table.c.id, _table.c.type).where(*_of_lease).order_by(_table.c.type, _table.c.id)
_add = Statement(insert(_table).on_conflict_do_nothing(), ("namespace", "lease", "type", "id"))
_delete = Statement(
    sql_delete(_table).where(*_of_lease, _table.c.type == bindparam("at_type"), _table.c.id == bindparam("at_id"))
)


def check_lease(connection: Connection, namespace: str, lease: str) -> None:
    """`NotFound` where the lease is not there."""
    if _leases.get(connection, namespace, lease) is None:
        raise NotFound(f"lease {lease!r} does not exist in namespace {namespace!r}")


def add(connection: Connection, namespace: str, lease: str, type: str, id: str) -> None:
    """Hold a resource by a lease that exists; holding twice is holding once."""
    _add.run(connection, {"namespace": namespace, "lease": lease, "type": type, "id": id})


def delete(connection: Connection, namespace: str, lease: str, type: str, id: str) -> None:
    """No longer hold it."""
    _delete.run(connection, {"at_namespace": namespace, "at_lease": lease, "at_type": type, "at_id": id})


def of_lease(connection: Connection, namespace: str, lease: str) -> Sequence[Resource]:
    """All that the lease holds, by type and id."""
    rows = connection.execute(_list, {"at_namespace": namespace, "at_lease": lease})
    return [Resource(id=row.id, type=row.type) for row in rows]
