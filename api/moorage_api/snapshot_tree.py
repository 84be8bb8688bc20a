"""The records of a snapshotter: a tree of snapshots in a small transactional store (SQLite).

For authors of snapshotters. The tree keeps ids, names, parents, kinds, labels and usage, enforces the rules of
`moorage_api.snapshots`, and raises its errors; what a snapshot is made of is the author's. An author calls
`create`, `commit` and `remove`, each with a function that does the work on files:

    tree = SnapshotTree(root / "metadata.db")
    record = tree.create(Kind.ACTIVE, key, parent, labels, make=lambda record: os.mkdir(folder(record.id)))

While that function runs, the names concerned are locked, for this call alone, and no transaction is open, so that it
may take its time. When it raises, nothing has happened as far as the tree is concerned. When it returns, the record
is written, synced to disk, and visible. After a crash in between, the id belongs to no record: whatever has that id
on disk is garbage, found by comparing with `ids()`.

A snapshotter that keeps each snapshot in a folder has more done for it: see `moorage_api.folder_snapshotter`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moorage_api import adaptors, filters
from moorage_api.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    ResourceExhausted,
)
from moorage_api.fieldpaths import update_labels, without_empty
from moorage_api.name_locks import NameLocks
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.types import Labels
from moorage_api.wal import size_log

_VERSION = 1
_SCHEMA = """
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshot (id),
    kind TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX snapshot_parent ON snapshot (parent);
CREATE TABLE sequence (last INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);
"""
_COLUMNS = "name, parent, kind, labels, created_at, updated_at, size, inodes"
_ALL = f"SELECT id, {_COLUMNS} FROM snapshot"
_INSERT = f"INSERT INTO snapshot (id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# All but the parent, which few get: to set a column is to write its index, whatever was there.
_UPDATE = """UPDATE snapshot SET (name, kind, labels, created_at, updated_at, size, inodes) = (?2, ?4, ?5, ?6, ?7, ?8, ?9)
    WHERE id = ?1"""
_REBASE = "UPDATE snapshot SET parent = ? WHERE id = ?"
_DELETE = "DELETE FROM snapshot WHERE id = ?"
# The last id that was given, where no record has it any more.
_LAST = "UPDATE sequence SET last = max(last, ?)"
_KINDS: dict[int, type[MoorageError]] = {
    sqlite3.SQLITE_FULL: ResourceExhausted,
    sqlite3.SQLITE_CORRUPT: DataLoss,
    sqlite3.SQLITE_NOTADB: DataLoss,
}
_NO_USAGE = Usage(0, 0)

_Statement = tuple[str, Sequence[object]]


@dataclass(frozen=True, slots=True)
class Record:
    """A snapshot as the tree has it. `id` is never used again, and is fit for a file name; `parents` are the ids of its
    ancestors, the nearest first; `usage` is what its commit measured (zero before)."""

    id: int
    info: Info
    parents: tuple[int, ...]
    usage: Usage = _NO_USAGE


class SnapshotTree:
    """A tree of snapshots in the SQLite database at `path`, for this process alone. Thread-safe.

    Every change is on disk when the call returns (WAL, `synchronous=FULL`), and raises `ResourceExhausted` for a full disk.
    All records are in memory as well, so that nothing is read from the database but at the start; it raises `DataLoss` for
    one that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = NameLocks()
        self._making: set[int] = set()
        self._writing = threading.Lock()
        """Held for a change of the database, and of `_records` after it."""
        self._swapping = threading.Lock()
        """Held while several records change, and by who looks at all of them."""
        with _sqlite_errors(path):
            self._database = _connect(path)
            _prepare_schema(self._database)
            self._records = {record.info.name: record for record in _load(self._database)}
            self._last_id = int(self._database.execute("SELECT last FROM sequence").fetchone()[0])
            size_log(self._database, path)
        self._last_id = max([self._last_id, *(record.id for record in self._records.values())])
        self._children = Counter(record.parents[0] for record in self._records.values() if record.parents)

    def get(self, key: str) -> Record:
        """The record of a snapshot of any kind. `NotFound`."""
        record = self._records.get(key)
        if record is None:
            raise NotFound(f"snapshot {key!r} not found")
        return record

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Change labels, as `Snapshotter.update` does."""
        with self._writing:
            current = self.get(info.name)
            labels = update_labels(current.info.labels, info.labels, fieldpaths, f"snapshot {info.name!r}")
            updated = replace(current, info=replace(current.info, labels=labels, updated_at=time.time_ns()))
            self._write((_UPDATE, _row(updated)))
            self._records[info.name] = updated
        return updated.info

    def create(
        self, kind: Kind, key: str, parent: str, labels: Labels | None, make: Callable[[Record], None]
    ) -> Record:
        """Make a snapshot that is active or a view; `make` makes its files, and removes them again if it fails.

        Errors as `Snapshotter.prepare`. When the record cannot be written after `make` was done, its files are garbage.
        """
        if kind is Kind.COMMITTED:
            raise InvalidArgument("a snapshot is made active or as a view: committed ones come from commit")
        if not key:
            raise InvalidArgument("a snapshot's key must not be empty")
        checked = without_empty(labels or {})
        with self._names.locked([key], [parent]):
            record = self._draft(kind, key, parent, checked)
            try:
                make(record)
                with self._writing:
                    self._write((_INSERT, _row(record)))
                    self._put(record)
            finally:
                self._making.discard(record.id)
        return record

    def commit(
        self, name: str, key: str, labels: Labels | None, seal: Callable[[Record], Usage], *, parent: str = ""
    ) -> Record:
        """Turn the active `key` into the committed `name`; `seal` syncs its files and measures them.

        Labels of the active snapshot are not kept, those given are the only ones. `parent` puts one that was made
        without a parent on the committed `parent`. Errors as `Snapshotter.commit`.
        """
        if not name:
            raise InvalidArgument("a committed snapshot's name must not be empty")
        checked = without_empty(labels or {})
        with self._names.locked([name, key], [parent]):
            record = self._to_commit(name, key, parent)
            usage = seal(record)
            now = time.time_ns()
            info = replace(record.info, name=name, kind=Kind.COMMITTED, labels=checked, created_at=now, updated_at=now)
            committed = replace(record, info=info, usage=usage)
            with self._writing:
                active = self._records[key]
                statements: list[_Statement] = [(_UPDATE, _row(committed))]
                if committed.parents != active.parents:
                    statements.append((_REBASE, (committed.parents[0], committed.id)))
                self._write(*statements)
                self._put(committed, active)
        return committed

    def remove(self, key: str) -> Record:
        """Forget a snapshot that nothing stands on; its files are garbage from then on. Errors as `Snapshotter.remove`."""
        with self._names.locked([key]), self._writing:
            record = self.get(key)
            if self._children[record.id]:
                child = next(other.info.name for other in self.records() if other.parents[:1] == (record.id,))
                raise FailedPrecondition(f"snapshot {key!r} has a child, {child!r}")
            self._write((_DELETE, (record.id,)), (_LAST, (record.id,)))
            self._put(None, record)
        return record

    def remove_all(self, keys: Sequence[str]) -> list[Record]:
        """Forget those of `keys` that nothing stands on, or only what comes before them in `keys`; the others are passed over.

        Returns the records that are gone: all of them with one write to disk.
        """
        with self._names.locked(keys), self._writing:
            gone = self._removable(keys)
            if gone:
                last = max(record.id for record in gone)
                self._write(*((_DELETE, (record.id,)) for record in gone), (_LAST, (last,)))
            for record in gone:
                self._put(None, record)
        return gone

    def walk(self, expressions: Sequence[str] = ()) -> Iterator[Info]:
        """All records that match any of the filters, by name, as they are at the call."""
        parsed = filters.parse(expressions)
        infos = sorted((record.info for record in self.records()), key=lambda info: info.name)
        return (info for info in infos if parsed.everything or parsed.matches(adaptors.snapshot_info(info)))

    def ids(self) -> frozenset[int]:
        """The ids of all records, and of those being made now: what is on disk under any other id is garbage."""
        making = frozenset(self._making)
        return making.union(record.id for record in self.records())

    def making(self) -> frozenset[int]:
        """The ids of those being made now."""
        return frozenset(self._making)

    def records(self) -> list[Record]:
        """All records, as they are at the call."""
        with self._swapping:
            return list(self._records.values())

    def close(self) -> None:
        """Close the database. Twice is harmless."""
        with self._writing:
            self._database.close()

    def _put(self, record: Record | None, old: Record | None = None) -> None:
        """Have `record` among the records, in the place of `old`."""
        with self._swapping:
            if old is not None:
                del self._records[old.info.name]
                self._children.pop(old.id, None)
                if old.parents:
                    self._children[old.parents[0]] -= 1
            if record is not None:
                self._records[record.info.name] = record
                if record.parents:
                    self._children[record.parents[0]] += 1

    def _removable(self, keys: Sequence[str]) -> list[Record]:
        """The records of `keys` that can go, in that order."""
        found: list[Record] = []
        going = Counter[int]()
        for key in dict.fromkeys(keys):
            record = self._records.get(key)
            if record is not None and self._children[record.id] == going[record.id]:
                found.append(record)
                going.update(record.parents[:1])
        return found

    def _draft(self, kind: Kind, key: str, parent: str, labels: Labels) -> Record:
        """The record of a snapshot about to be made, once it is known that it may be; its id counts as being made."""
        if key in self._records:
            raise AlreadyExists(f"snapshot {key!r} already exists")
        parents = self._committed_chain(parent, InvalidArgument) if parent else ()
        with self._swapping:
            self._last_id += 1
            id = self._last_id
            self._making.add(id)
        now = time.time_ns()
        return Record(id, Info(key, kind, parent, labels, now, now), parents)

    def _to_commit(self, name: str, key: str, parent: str) -> Record:
        """The active record `key`, on its new parent if it gets one, once it is known that it may become `name`."""
        record = self.get(key)
        if record.info.kind is not Kind.ACTIVE:
            raise FailedPrecondition(f"snapshot {key!r} is not active: it is {record.info.kind.value.lower()}")
        if name in self._records:
            raise AlreadyExists(f"snapshot {name!r} already exists")
        if not parent or parent == record.info.parent:
            return record
        if record.info.parent:
            raise InvalidArgument(f"snapshot {key!r} stands on {record.info.parent!r}, not on {parent!r}")
        parents = self._committed_chain(parent, FailedPrecondition)
        return replace(record, info=replace(record.info, parent=parent), parents=parents)

    def _committed_chain(self, parent: str, wrong: type[MoorageError]) -> tuple[int, ...]:
        """The ids of `parent` and its ancestors. `NotFound`; `wrong` where it is not committed."""
        record = self._records.get(parent)
        if record is None:
            raise NotFound(f"parent snapshot {parent!r} not found")
        if record.info.kind is not Kind.COMMITTED:
            raise wrong(f"parent snapshot {parent!r} is not committed")
        return (record.id, *record.parents)

    def _write(self, *statements: _Statement) -> None:
        """Carry out all of the statements, or none: on disk when it returns."""
        with _sqlite_errors(self._path):
            _transact(self._database, *statements)


def _transact(database: sqlite3.Connection, *statements: _Statement) -> None:
    """Carry out the statements in one transaction, which an exception undoes."""
    if len(statements) == 1:
        database.execute(*statements[0])
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            database.execute(*statement)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    return database


def _prepare_schema(database: sqlite3.Connection) -> None:
    """Make the tables of a new database. `FailedPrecondition` for one of another version."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise FailedPrecondition(f"the snapshots' database has version {version}; this Moorage reads {_VERSION}")


def _load(database: sqlite3.Connection) -> list[Record]:
    """All records. Ids of parents may be greater than those of their children, where a commit gave them."""
    rows = {row[0]: row for row in database.execute(_ALL)}
    chains: dict[int | None, tuple[int, ...]] = {None: ()}
    for id in rows:
        unknown = [id]
        while (above := rows[unknown[-1]][2]) not in chains:
            unknown.append(above)
        while unknown:
            current = unknown.pop()
            parent = rows[current][2]
            chains[current] = () if parent is None else (parent, *chains[parent])
    return [_record(row, rows[row[2]][1] if row[2] is not None else "", chains[id]) for id, row in rows.items()]


def _row(record: Record) -> Sequence[object]:
    info, usage = record.info, record.usage
    parent = record.parents[0] if record.parents else None
    labels = json.dumps(dict(info.labels))
    times = info.created_at, info.updated_at
    return record.id, info.name, parent, info.kind.value, labels, *times, usage.size, usage.inodes


def _record(row: Sequence[Any], parent: str, parents: tuple[int, ...]) -> Record:
    id, name, _, kind, labels, created_at, updated_at, size, inodes = row
    return Record(
        id, Info(name, Kind(kind), parent, json.loads(labels), created_at, updated_at), parents, Usage(size, inodes)
    )


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The primary code is the low byte; errors of Python's own module have none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise _KINDS.get(code, MoorageError)(f"{path}: {error}") from error
