"""Sandboxes of a namespace: records; a controller runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moorage_api import adaptors
from moorage_api.containers import Runtime
from moorage_api.errors import InvalidArgument
from moorage_api.fieldpaths import immutable, merge, split, without_empty
from moorage_api.sandboxes import Sandbox
from moorage_api.types import check_identifier
from mooraged.metadata import schema
from mooraged.metadata.records import Kind, Records
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope

_ALL_FIELDS = ("labels", "extensions", "spec", "runtime")


class Sandboxes(Records[Sandbox]):
    """`moorage_api.sandboxes.SandboxStore` over the database."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, _KIND)


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


_KIND = Kind(
    "sandbox",
    Rows(schema.sandboxes, "id", order=("created_at", "id")),
    _sandbox,
    _values,
    adaptors.sandbox,
    _checked,
    _updated,
)
