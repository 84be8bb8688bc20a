"""Statements that are built and compiled once, and run by the driver.

SQLAlchemy's own way of running one costs several times what SQLite does for it, most of that for what is the same each
time. What every call of a client comes to goes this way; everything else need not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import CompoundSelect, Connection, Delete, Insert, Select, Update
from sqlalchemy.dialects import sqlite

R = TypeVar("R")
Selection = Select[Any] | CompoundSelect[Any]
_Convert = Callable[[Any], Any]
_dialect = sqlite.dialect(paramstyle="named")


def driver(connection: Connection) -> sqlite3.Connection:
    """The driver's connection, for what SQLAlchemy need not see."""
    return cast(sqlite3.Connection, connection.connection.driver_connection)


class Statement:
    """A statement whose parameters are named; `columns` are those that an insert or update gets values for."""

    def __init__(self, statement: Selection | Insert | Update | Delete, columns: Sequence[str] = ()) -> None:
        compiled = statement.compile(dialect=_dialect, column_keys=list(columns) or None)
        self._sql = str(compiled)
        self._encoders: dict[str, _Convert] = {}
        for name, bound in compiled.binds.items():
            encode = bound.type.dialect_impl(_dialect).bind_processor(_dialect)
            if encode is not None:
                self._encoders[name] = encode
        # What the statement itself says; of what it asks for there is no value yet.
        fixed = {name: value for name, value in compiled.params.items() if isinstance(value, str | int | dict)}
        self._fixed = self._encoded({name: value for name, value in fixed.items() if name not in columns})

    def run(self, connection: Connection, values: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run it; its cursor tells how many rows it changed. `sqlite3.Error`."""
        return driver(connection).execute(self._sql, {**self._fixed, **self._encoded(values)})

    def _encoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        encoded = dict(values)
        for name, encode in self._encoders.items():
            if name in encoded:
                encoded[name] = encode(encoded[name])
        return encoded


class Query(Statement, Generic[R]):
    """A statement with rows, each made by `row` of its columns."""

    def __init__(self, statement: Selection | Update, row: Callable[..., R], columns: Sequence[str] = ()) -> None:
        super().__init__(statement, columns)
        self._row = row
        self._decoders: list[tuple[int, _Convert]] = []
        for number, column in enumerate(statement.exported_columns):
            decode = column.type.dialect_impl(_dialect).result_processor(_dialect, None)
            if decode is not None:
                self._decoders.append((number, decode))

    def first(self, connection: Connection, values: Mapping[str, Any]) -> R | None:
        """The first row, or None."""
        found = self.run(connection, values).fetchone()
        return None if found is None else self._made(found)

    def all(self, connection: Connection, values: Mapping[str, Any]) -> list[R]:
        """All rows."""
        return [self._made(found) for found in self.run(connection, values)]

    def _made(self, found: tuple[Any, ...]) -> R:
        cells = list(found)
        for number, decode in self._decoders:
            cells[number] = decode(cells[number])
        return self._row(*cells)
