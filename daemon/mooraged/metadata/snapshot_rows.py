"""The statements on snapshots, built once. `AT_…` parameters say which row, the others what it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, or_, select, update

from moorage_api.snapshots import Kind
from mooraged.metadata import schema
from mooraged.metadata.rows import AnyRow

_table = schema.snapshots
_here = (_table.c.namespace == bindparam("at_namespace"), _table.c.snapshotter == bindparam("at_snapshotter"))
_name: BindParameter[str] = bindparam("at_name")
_this = (*_here, _table.c.name == _name)

GET = select(_table).where(*_this)
ALL = select(_table).where(*_here).order_by(_table.c.name)
INSERT = insert(_table)
DELETE = delete(_table).where(*_this)
CHILD = select(_table.c.name).where(*_here, _table.c.parent == _name).limit(1)
COMMITTING = select(_table).where(*_here, _table.c.commit_name != "")
SET_LABELS = update(_table).where(*_this)
SET_INTENT = update(_table).where(*_this)
FINISH = update(_table).where(*_this).values(kind=Kind.COMMITTED.value, commit_name="", commit_key="", commit_labels={})

_taken = select(_table.c.name).where(*_here, or_(_table.c.name == _name, _table.c.commit_name == _name)).limit(1)
_elsewhere = select(_table).where(
    _table.c.snapshotter == bindparam("at_snapshotter"),
    _table.c.name == _name,
    _table.c.kind == Kind.COMMITTED.value,
)


def is_taken(connection: Connection, name: Mapping[str, str]) -> bool:
    """True where a snapshot has the name, or a commit under way will give it to one."""
    return connection.execute(_taken, name).first() is not None


def committed_elsewhere(connection: Connection, snapshotter: str, name: str) -> Sequence[AnyRow]:
    """The committed snapshots of that name in any namespace. Only for the sharing policy `shared`."""
    return connection.execute(_elsewhere, {"at_snapshotter": snapshotter, "at_name": name}).all()
