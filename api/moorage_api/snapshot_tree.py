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
from moorage_api.snapshots import Info, Kind, Usage
from moorage_api.types import Labels

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
_SELECT = """
SELECT s.id, s.name, s.kind, p.name, s.labels, s.created_at, s.updated_at, s.size, s.inodes
FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent
"""
_ANCESTORS = """
WITH RECURSIVE chain (id, parent, depth) AS (
    SELECT id, parent, 0 FROM snapshot WHERE name = ?
    UNION ALL
    SELECT s.id, s.parent, chain.depth + 1 FROM snapshot s JOIN chain ON s.id = chain.parent
)
SELECT id FROM chain ORDER BY depth
"""
_KINDS: dict[int, type[MoorageError]] = {
    sqlite3.SQLITE_FULL: ResourceExhausted,
    sqlite3.SQLITE_CORRUPT: DataLoss,
    sqlite3.SQLITE_NOTADB: DataLoss,
}
_NO_USAGE = Usage(0, 0)


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

    Every change is on disk when the call returns (WAL, `synchronous=FULL`). Every method may also raise
    `ResourceExhausted` for a full disk and `DataLoss` for a database that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._names = _NameLocks()
        self._making: set[int] = set()
        with _sqlite_errors(path):
            self._writer = _connect(path)
            self._reader = _connect(path)
            self._last_id = self._prepare_schema()
        self._path = path

    def get(self, key: str) -> Record:
        """The record of a snapshot of any kind. `NotFound`."""
        with self._read() as database:
            return _load(database, key)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Change labels, as `Snapshotter.update` does."""
        with self._write() as database:
            current = _load(database, info.name).info
            labels = update_labels(current.labels, info.labels, fieldpaths, f"snapshot {info.name!r}")
            updated = replace(current, labels=labels, updated_at=time.time_ns())
            database.execute(
                "UPDATE snapshot SET labels = ?, updated_at = ? WHERE name = ?",
                (json.dumps(labels), updated.updated_at, info.name),
            )
        return updated

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
                with self._write() as database:
                    _insert(database, record)
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
            with self._write() as database:
                database.execute("DELETE FROM snapshot WHERE id = ?", (record.id,))
                _insert(database, committed)
        return committed

    def remove(self, key: str) -> Record:
        """Forget a snapshot that nothing stands on; its files are garbage from then on. Errors as `Snapshotter.remove`."""
        with self._names.locked([key], []), self._write() as database:
            record = _load(database, key)
            child = database.execute("SELECT name FROM snapshot WHERE parent = ? LIMIT 1", (record.id,)).fetchone()
            if child is not None:
                raise FailedPrecondition(f"snapshot {key!r} has a child, {child[0]!r}")
            database.execute("DELETE FROM snapshot WHERE id = ?", (record.id,))
        return record

    def walk(self, expressions: Sequence[str] = ()) -> Iterator[Info]:
        """All records that match any of the filters, by name, as they are at the call."""
        parsed = filters.parse(expressions)
        with self._read() as database:
            infos = [_record(row).info for row in database.execute(_SELECT + "ORDER BY s.name")]
        return (info for info in infos if parsed.matches(adaptors.snapshot_info(info)))

    def ids(self) -> frozenset[int]:
        """The ids of all records, and of those being made now: what is on disk under any other id is garbage."""
        making = frozenset(self._making)
        with self._read() as database:
            return making.union(row[0] for row in database.execute("SELECT id FROM snapshot"))

    def making(self) -> frozenset[int]:
        """The ids of those being made now."""
        return frozenset(self._making)

    def unsealed(self) -> list[tuple[int, str]]:
        """Ids and keys of all snapshots that are active or views."""
        with self._read() as database:
            rows = database.execute("SELECT id, name FROM snapshot WHERE kind != ?", (Kind.COMMITTED.value,))
            return [(int(id), str(name)) for id, name in rows]

    def close(self) -> None:
        """Close the database. Twice is harmless."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()

    def _prepare_schema(self) -> int:
        """Make the tables of a new database; returns the last id that was given."""
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._writer.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise FailedPrecondition(f"the snapshots' database has version {version}; this Moorage reads {_VERSION}")
        return int(self._writer.execute("SELECT last FROM sequence").fetchone()[0])

    def _draft(self, kind: Kind, key: str, parent: str, labels: Labels) -> Record:
        """The record of a snapshot about to be made, once it is known that it may be; its id counts as being made."""
        with self._read() as database:
            if database.execute("SELECT 1 FROM snapshot WHERE name = ?", (key,)).fetchone() is not None:
                raise AlreadyExists(f"snapshot {key!r} already exists")
            parents = _committed_chain(database, parent, InvalidArgument) if parent else ()
            self._last_id += 1
            self._making.add(self._last_id)
        now = time.time_ns()
        return Record(self._last_id, Info(key, kind, parent, labels, now, now), parents)

    def _to_commit(self, name: str, key: str, parent: str) -> Record:
        """The active record `key`, on its new parent if it gets one, once it is known that it may become `name`."""
        with self._read() as database:
            record = _load(database, key)
            if record.info.kind is not Kind.ACTIVE:
                raise FailedPrecondition(f"snapshot {key!r} is not active: it is {record.info.kind.value.lower()}")
            if database.execute("SELECT 1 FROM snapshot WHERE name = ?", (name,)).fetchone() is not None:
                raise AlreadyExists(f"snapshot {name!r} already exists")
            if not parent or parent == record.info.parent:
                return record
            if record.info.parent:
                raise InvalidArgument(f"snapshot {key!r} stands on {record.info.parent!r}, not on {parent!r}")
            parents = _committed_chain(database, parent, FailedPrecondition)
        return replace(record, info=replace(record.info, parent=parent), parents=parents)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, _sqlite_errors(self._path):
            yield self._reader

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: synced and visible at the end, or undone by an exception."""
        with self._write_lock, _sqlite_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


class _NameLocks:
    """Locks by name: exclusive for names that change, shared for those that must stay as they are meanwhile.

    All the names of a call are taken at once or waited for together, so that two calls cannot wait for each other.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._exclusive: set[str] = set()
        self._shared: Counter[str] = Counter()

    @contextmanager
    def locked(self, exclusive: Sequence[str], shared: Sequence[str]) -> Iterator[None]:
        mine = frozenset(exclusive)
        kept = frozenset(shared) - mine
        with self._changed:
            self._changed.wait_for(
                lambda: (mine | kept).isdisjoint(self._exclusive) and not any(self._shared[name] for name in mine)
            )
            self._exclusive |= mine
            self._shared.update(kept)
        try:
            yield
        finally:
            with self._changed:
                self._exclusive -= mine
                self._shared.subtract(kept)
                self._shared += Counter()
                self._changed.notify_all()


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    return database


def _load(database: sqlite3.Connection, key: str) -> Record:
    row = database.execute(_SELECT + "WHERE s.name = ?", (key,)).fetchone()
    if row is None:
        raise NotFound(f"snapshot {key!r} not found")
    chain = [ancestor for (ancestor,) in database.execute(_ANCESTORS, (key,))]
    return replace(_record(row), parents=tuple(chain[1:]))


def _committed_chain(database: sqlite3.Connection, parent: str, wrong: type[MoorageError]) -> tuple[int, ...]:
    """The ids of `parent` and its ancestors. `NotFound`; `wrong` where it is not committed."""
    row = database.execute("SELECT kind FROM snapshot WHERE name = ?", (parent,)).fetchone()
    if row is None:
        raise NotFound(f"parent snapshot {parent!r} not found")
    if row[0] != Kind.COMMITTED.value:
        raise wrong(f"parent snapshot {parent!r} is not committed")
    return tuple(ancestor for (ancestor,) in database.execute(_ANCESTORS, (parent,)))


def _insert(database: sqlite3.Connection, record: Record) -> None:
    info = record.info
    database.execute(
        "INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.id,
            info.name,
            record.parents[0] if record.parents else None,
            info.kind.value,
            json.dumps(dict(info.labels)),
            info.created_at,
            info.updated_at,
            record.usage.size,
            record.usage.inodes,
        ),
    )
    database.execute("UPDATE sequence SET last = max(last, ?)", (record.id,))


def _record(row: Sequence[object]) -> Record:
    """A record without its ancestors, from a row of `_SELECT`."""
    identifier, name, kind, parent, labels, created_at, updated_at, size, inodes = row
    info = Info(
        name=str(name),
        kind=Kind(kind),
        parent=str(parent or ""),
        labels=json.loads(str(labels)),
        created_at=int(str(created_at)),
        updated_at=int(str(updated_at)),
    )
    return Record(int(str(identifier)), info, (), Usage(int(str(size)), int(str(inodes))))


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The primary code is the low byte; errors of Python's own module have none.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise _KINDS.get(code, MoorageError)(f"{path}: {error}") from error
