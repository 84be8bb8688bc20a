"""The statements that every table needs whose key is a namespace and one column more, built once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from sqlalchemy import Connection, Insert, Table, Update, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from mooraged.metadata.statements import Query, Statement

AnyRow: TypeAlias = Any
"""A row, with an attribute for each column."""


class Rows:
    """A table's rows by namespace and key."""

    def __init__(self, table: Table, key: str, order: Sequence[str] = ()) -> None:
        here = table.c.namespace == bindparam("at_namespace")
        this = table.c[key] == bindparam("at_key")
        row = namedtuple("row", table.c.keys())  # type: ignore[misc]
        self._get = Query(select(table).where(here, this), row)
        # In another order than the key's, SQLite would sort whole rows, and take as long for that as for reading them.
        self._all = Query(select(table).where(here).order_by(*([] if order else [table.c[key]])), row)
        self._order = attrgetter(*order) if order else None
        self._insert = _Setting(insert(table).on_conflict_do_nothing())
        self._update = _Setting(update(table).where(here, this))
        self._delete = Statement(delete(table).where(here, this))
        self._count = Query(select(func.count()).select_from(table).where(here), int)

    def get(self, connection: Connection, namespace: str, key: str) -> AnyRow | None:
        """The row, or None."""
        return self._get.first(connection, {"at_namespace": namespace, "at_key": key})

    def all(self, connection: Connection, namespace: str) -> Sequence[AnyRow]:
        """The namespace's rows in the table's order."""
        rows = self._all.all(connection, {"at_namespace": namespace})
        if self._order is not None:
            rows.sort(key=self._order)
        return rows

    def insert(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Insert a row; False, and nothing changed, where its key or another unique column is taken."""
        return self._insert.of(values).run(connection, values).rowcount == 1

    def update(self, connection: Connection, namespace: str, key: str, values: Mapping[str, Any]) -> None:
        """Set columns of the row."""
        where = {"at_namespace": namespace, "at_key": key}
        self._update.of(values).run(connection, {**where, **values})

    def delete(self, connection: Connection, namespace: str, key: str) -> bool:
        """Delete the row; False where there is none."""
        return self._delete.run(connection, {"at_namespace": namespace, "at_key": key}).rowcount == 1

    def count(self, connection: Connection, namespace: str) -> int:
        """How many rows the namespace has."""
        return self._count.first(connection, {"at_namespace": namespace}) or 0


class _Setting:
    """A statement that gives values to columns: one is compiled for each set of columns that it is asked for, once."""

    def __init__(self, statement: Insert | Update) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, ...], Statement] = {}

    def of(self, columns: Mapping[str, Any]) -> Statement:
        """For these columns."""
        names = tuple(columns)
        found = self._compiled.get(names)
        if found is None:
            found = self._compiled[names] = Statement(self._statement, names)
        return found
