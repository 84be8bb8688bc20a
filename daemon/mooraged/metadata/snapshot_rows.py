"""The statements on snapshots. `at_…` parameters say which row, the others what it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, select, text, union_all, update

from moorage_api.snapshots import Info, Kind
from mooraged.metadata import schema
from mooraged.metadata.statements import Query, Statement


class SnapshotRow(NamedTuple):
    """A row of the table of snapshots."""

    namespace: str
    snapshotter: str
    name: str
    backend_key: str
    kind: str
    parent: str
    labels: dict[str, str]
    created_at: int
    updated_at: int
    commit_name: str
    commit_key: str
    commit_labels: dict[str, str]


_KINDS = {kind.value: kind for kind in Kind}
_table = schema.snapshots
_here = (_table.c.namespace == bindparam("at_namespace"), _table.c.snapshotter == bindparam("at_snapshotter"))
_name: BindParameter[str] = bindparam("at_name")
_this = (*_here, _table.c.name == _name)
_columns = [_table.c[name] for name in SnapshotRow._fields]
_rows = select(*_columns)

GET = Query(_rows.where(*_this), SnapshotRow)
LISTED = Query(
    select(*(_table.c[name] for name in ("name", "kind", "parent", "labels", "created_at", "updated_at")))
    .where(*_here)
    .order_by(_table.c.name),
    lambda name, kind, *others: Info(name, _KINDS[kind], *others),
)
COMMITTING = Query(_rows.where(*_here, _table.c.commit_name != ""), SnapshotRow)
COMMIT_NAME = Query(select(_table.c.commit_name).where(*_this), str)
CHILD = Query(select(_table.c.name).where(*_here, _table.c.parent == _name).limit(1), str)
INSERT = Statement(insert(_table), SnapshotRow._fields[:9])
DELETE = Statement(delete(_table).where(*_this))
SET_LABELS = Statement(update(_table).where(*_this), ("labels", "updated_at"))
_NO_INTENT = {"commit_name": "", "commit_key": "", "commit_labels": {}}
FORGET_INTENT = Statement(update(_table).where(*_this).values(_NO_INTENT))
SET_PARENT = Statement(update(_table).where(*_this), ("parent",))
FINISH = Statement(
    update(_table).where(*_this).values(kind=Kind.COMMITTED.value, **_NO_INTENT),
    ("name", "backend_key", "labels", "created_at", "updated_at"),
)

# Who has a name, or will have it by a commit under way. One search in an index each; as alternatives of one search, all rows
# of the snapshotter would be looked through. That the intent is not empty has to be said: the index has no others.
_other = _table.alias("other")
_holder = select(_other.c.name).where(
    _other.c.namespace == bindparam("at_namespace"), _other.c.snapshotter == bindparam("at_snapshotter")
)
_target: BindParameter[str] = bindparam("at_target")
_holders = (
    _holder.where(_other.c.name == _target),
    _holder.where(_other.c.commit_name == _target, text("other.commit_name != ''")),
)
_taken = Query(union_all(*_holders).limit(1), str)
INTEND = Query(
    update(_table)
    .where(
        *_this,
        _table.c.kind == Kind.ACTIVE.value,
        _table.c.commit_name == "",
        *(~holder.exists() for holder in _holders),
    )
    .returning(*_columns),
    SnapshotRow,
    tuple(_NO_INTENT),
)
"""Writes an intent into a row that may be committed under `at_target`, which is free; gives the row as it is then."""
_elsewhere = Query(
    _rows.where(
        _table.c.snapshotter == bindparam("at_snapshotter"),
        _table.c.name == _name,
        _table.c.kind == Kind.COMMITTED.value,
    ),
    SnapshotRow,
)


def is_taken(connection: Connection, place: Mapping[str, str]) -> bool:
    """True where a snapshot has the name `at_target`, or a commit under way will give it to one."""
    return _taken.first(connection, place) is not None


def committed_elsewhere(connection: Connection, snapshotter: str, name: str) -> list[SnapshotRow]:
    """The committed snapshots of that name in any namespace. Only for the sharing policy `shared`."""
    return _elsewhere.all(connection, {"at_snapshotter": snapshotter, "at_name": name})
