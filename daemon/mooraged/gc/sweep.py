"""Removing garbage from the database, in the transaction that found it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Delete, bindparam, delete

from mooraged.gc.graph import Kind, Node
from mooraged.metadata import schema


def _by(table: Any, key: str) -> Delete:
    return delete(table).where(table.c.namespace == bindparam("at_namespace"), table.c[key] == bindparam("at_key"))


_STATEMENTS: Mapping[Kind, Delete] = {
    Kind.CONTENT: _by(schema.blobs, "digest"),
    Kind.SNAPSHOT: _by(schema.snapshots, "name").where(schema.snapshots.c.snapshotter == bindparam("at_snapshotter")),
    Kind.IMAGE: _by(schema.images, "name"),
    Kind.LEASE: _by(schema.leases, "id"),
    Kind.INGEST: _by(schema.ingests, "ref"),
}


def sweep(connection: Connection, garbage: Iterable[Node]) -> None:
    """Delete the rows of `garbage`; what leases of it hold goes with them."""
    parameters: dict[Kind, list[dict[str, str]]] = {}
    for node in garbage:
        parameters.setdefault(node.kind, []).append(_parameters(node))
    for kind, rows in parameters.items():
        connection.execute(_STATEMENTS[kind], rows)


def _parameters(node: Node) -> dict[str, str]:
    if node.kind is not Kind.SNAPSHOT:
        return {"at_namespace": node.namespace, "at_key": node.key}
    snapshotter, _, name = node.key.partition("/")
    return {"at_namespace": node.namespace, "at_snapshotter": snapshotter, "at_key": name}
