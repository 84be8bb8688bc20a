"""Sandboxes of a namespace: records; a controller runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from moorage_api import adaptors
from moorage_api.containers import Runtime
from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound
from moorage_api.fieldpaths import immutable, merge, split, without_empty
from moorage_api.filters import parse
from moorage_api.sandboxes import Sandbox
from moorage_api.types import check_identifier
from mooraged.metadata import schema
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

_rows = Rows(schema.sandboxes, "id", order=("created_at", "id"))
_ALL_FIELDS = ("labels", "extensions", "spec", "runtime")


class Sandboxes:
    """`moorage_api.sandboxes.SandboxStore` over the database."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def get(self, id: str) -> Sandbox:
        row = self._scope.read(lambda connection: _rows.get(connection, self._scope.namespace, id))
        if row is None:
            raise self._missing(id)
        return _sandbox(row)

    def list(self, filters: Sequence[str] = ()) -> list[Sandbox]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: _rows.all(connection, self._scope.namespace))
        return [found for found in map(_sandbox, rows) if accepted.matches(adaptors.sandbox(found))]

    def create(self, sandbox: Sandbox) -> Sandbox:
        now = time.time_ns()
        created = replace(_checked(sandbox), created_at=now, updated_at=now)

        def work(connection: Connection) -> None:
            if not _rows.insert(connection, {"namespace": self._scope.namespace, **_values(created)}):
                raise AlreadyExists(f"sandbox {created.id!r} already exists in namespace {self._scope.namespace!r}")

        self._scope.write(work)
        return created

    def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        def work(connection: Connection) -> Sandbox:
            row = _rows.get(connection, self._scope.namespace, sandbox.id)
            if row is None:
                raise self._missing(sandbox.id)
            updated = replace(_checked(_updated(_sandbox(row), sandbox, fieldpaths)), updated_at=time.time_ns())
            _rows.update(connection, self._scope.namespace, sandbox.id, _values(updated))
            return updated

        return self._scope.remove(work)

    def delete(self, id: str) -> None:
        def work(connection: Connection) -> None:
            if not _rows.delete(connection, self._scope.namespace, id):
                raise self._missing(id)

        self._scope.remove(work)

    def _missing(self, id: str) -> MoorageError:
        return NotFound(f"sandbox {id!r} does not exist in namespace {self._scope.namespace!r}")


def _updated(current: Sandbox, given: Sandbox, fieldpaths: Sequence[str]) -> Sandbox:
    for path in fieldpaths or _ALL_FIELDS:
        field, key = split(path)
        if field == "labels":
            current = replace(current, labels=merge(current.labels, given.labels, key))
        elif field == "extensions":
            current = replace(current, extensions=merge(current.extensions, given.extensions, key))
        elif path == "spec":
            current = replace(current, spec=given.spec)
        elif path in ("runtime", "runtime.options"):
            if path == "runtime" and given.runtime.name != current.runtime.name:
                raise InvalidArgument(
                    f"cannot change runtime.name of sandbox {current.id!r} "
                    f"from {current.runtime.name!r} to {given.runtime.name!r}"
                )
            current = replace(current, runtime=replace(current.runtime, options=given.runtime.options))
        else:
            raise immutable(path, f"sandbox {current.id!r}")
    return current


def _checked(sandbox: Sandbox) -> Sandbox:
    """The sandbox as it is stored; `InvalidArgument` for what cannot be."""
    check_identifier(sandbox.id, "sandbox id")
    if "" in sandbox.extensions:
        raise InvalidArgument(f"sandbox {sandbox.id!r} has an extension with an empty name")
    return replace(sandbox, labels=without_empty(sandbox.labels))


def _values(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "runtime": sandbox.runtime.name,
        "runtime_options": sandbox.runtime.options,
        "spec": sandbox.spec,
        "sandboxer": sandbox.sandboxer,
        "labels": sandbox.labels,
        "extensions": sandbox.extensions,
        "created_at": sandbox.created_at,
        "updated_at": sandbox.updated_at,
    }


def _sandbox(row: AnyRow) -> Sandbox:
    return Sandbox(
        id=row.id,
        runtime=Runtime(row.runtime, row.runtime_options),
        spec=row.spec,
        labels=row.labels,
        extensions=row.extensions,
        sandboxer=row.sandboxer,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
