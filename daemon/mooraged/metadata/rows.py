"""The statements that every table needs whose key is a namespace and one column more, built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

AnyRow = Row[Any]


class Rows:
    """A table's rows by namespace and key."""

    def __init__(self, table: Table, key: str, order: Sequence[str] = ()) -> None:
        here = table.c.namespace == bindparam("at_namespace")
        this = table.c[key] == bindparam("at_key")
        self._get = select(table).where(here, this)
        self._all = select(table).where(here).order_by(*(table.c[name] for name in order or (key,)))
        self._insert = insert(table).on_conflict_do_nothing()
        self._update = update(table).where(here, this)
        self._delete = delete(table).where(here, this)
        self._count = select(func.count()).select_from(table).where(here)

    def get(self, connection: Connection, namespace: str, key: str) -> AnyRow | None:
        """The row, or None."""
        return connection.execute(self._get, {"at_namespace": namespace, "at_key": key}).first()

    def all(self, connection: Connection, namespace: str) -> Sequence[AnyRow]:
        """The namespace's rows in the table's order."""
        return connection.execute(self._all, {"at_namespace": namespace}).all()

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Insert a row; False, and nothing changed, where its key or another unique column is taken."""
        return connection.execute(self._insert, dict(values)).rowcount == 1

    def update(self, connection: Connection, namespace: str, key: str, values: Mapping[str, Any]) -> None:
        """Set columns of the row."""
        connection.execute(self._update, {"at_namespace": namespace, "at_key": key, **values})

    def delete(self, connection: Connection, namespace: str, key: str) -> bool:
        """Delete the row; False where there is none."""
        return connection.execute(self._delete, {"at_namespace": namespace, "at_key": key}).rowcount == 1

    def count(self, connection: Connection, namespace: str) -> int:
        """How many rows the namespace has."""
        return int(connection.execute(self._count, {"at_namespace": namespace}).scalar_one())
