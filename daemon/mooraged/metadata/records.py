"""Records of a namespace that clients make, change and delete as a whole: containers and sandboxes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from moorage_api.containers import Container
from moorage_api.errors import AlreadyExists, MoorageError, NotFound
from moorage_api.filters import Adaptor, parse
from moorage_api.sandboxes import Sandbox
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

R = TypeVar("R", Container, Sandbox)


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """What differs between the kinds of records."""

    name: str
    rows: Rows
    record: Callable[[AnyRow], R]
    values: Callable[[R], dict[str, Any]]
    adaptor: Callable[[R], Adaptor]
    checked: Callable[[R], R]
    """The record as it is stored; `InvalidArgument` for what cannot be."""
    updated: Callable[[R, R, Sequence[str]], R]
    """The current record with these fields of the given one, or with all that can change."""


class Records(Generic[R]):
    """The records of one kind in a namespace. Thread-safe."""

    def __init__(self, scope: Scope, kind: Kind[R]) -> None:
        self._scope = scope
        self._kind: Kind[R] = kind

    def get(self, id: str) -> R:
        return self._kind.record(self._scope.read(lambda connection: self._row(connection, id)))

    def list(self, filters: Sequence[str] = ()) -> list[R]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: self._kind.rows.all(connection, self._scope.namespace))
        found = map(self._kind.record, rows)
        return [each for each in found if not filters or accepted.matches(self._kind.adaptor(each))]

    def create(self, record: R) -> R:
        now = time.time_ns()
        created = replace(self._kind.checked(record), created_at=now, updated_at=now)

        def work(connection: Connection) -> None:
            self._claim(connection, created)
            values = {"namespace": self._scope.namespace, **self._kind.values(created)}
            if not self._kind.rows.insert(connection, values):
                raise AlreadyExists(f"{self._kind.name} {created.id!r} already exists in {self._here}")

        self._scope.write(work)
        return created

    def update(self, record: R, fieldpaths: Sequence[str] = ()) -> R:
        def work(connection: Connection) -> R:
            current = self._kind.record(self._row(connection, record.id))
            changed = self._kind.checked(self._kind.updated(current, record, fieldpaths))
            updated = replace(changed, updated_at=time.time_ns())
            self._claim(connection, updated)
            self._kind.rows.update(connection, self._scope.namespace, record.id, self._kind.values(updated))
            return updated

        return self._scope.remove(work)

    def delete(self, id: str) -> None:
        def work(connection: Connection) -> None:
            if not self._kind.rows.delete(connection, self._scope.namespace, id):
                raise self._missing(id)

        self._scope.remove(work)

    def _claim(self, connection: Connection, record: R) -> None:
        """Before a record is written: `AlreadyExists` where another one holds what only one may have."""

    def _row(self, connection: Connection, id: str) -> AnyRow:
        row = self._kind.rows.get(connection, self._scope.namespace, id)
        if row is None:
            raise self._missing(id)
        return row

    def _missing(self, id: str) -> MoorageError:
        return NotFound(f"{self._kind.name} {id!r} does not exist in {self._here}")

    @property
    def _here(self) -> str:
        return f"namespace {self._scope.namespace!r}"
