"""The SQLite database: one writer, any number of readers, and what an acknowledged write means.

Write-ahead logging lets readers go on while the writer writes. Writers that come at the same time share a transaction,
and with it the sync to disk: each one's work stands in a savepoint of its own, so that one's error undoes only its own.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from moorage_api.errors import FailedPrecondition, Internal, MoorageError, ResourceExhausted
from moorage_api.wal import size_log
from mooraged.locks import exclusive
from mooraged.metadata import schema
from mooraged.metadata.reserve import Reserve
from mooraged.metadata.statements import driver

_log = logging.getLogger(__name__)
T = TypeVar("T")

FILE = "meta.db"
_READERS = 16
_BUSY_SECONDS = 30
# SQLAlchemy's, and those of the driver in statements that go past it.
_DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error)


class _Job(Generic[T]):
    """A writer's work on its way through a transaction."""

    __slots__ = ("_error", "_result", "done", "durable", "work")

    def __init__(self, work: Callable[[Connection], T], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.done = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self, connection: Connection) -> bool:
        """Do the work; False where it failed, and what it wrote must be undone."""
        try:
            self._result = self.work(connection)
        except BaseException as error:  # noqa: BLE001 (raised again in the thread whose work it is)
            self._error = error
            return False
        return True

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def result(self) -> T:
        if isinstance(self._error, _DATABASE_ERRORS):
            raise _translated(self._error) from self._error
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class _Batches(threading.local):
    """Whether this thread is in a batch, and has written there what was to be durable."""

    open = False
    unsynced = False


class Database:
    """An open database. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open or make `folder`/meta.db, and migrate it. `FailedPrecondition` where another daemon has it open or a
        newer Moorage wrote it."""
        self._resources = ExitStack()
        self._lock = threading.Lock()
        self._queue: deque[_Job[Any]] = deque()
        self._starts = 0
        self._synchronous = ""
        self._batches = _Batches()
        self._closed = False
        # Kept, since to take one from SQLAlchemy's pool and give it back costs more than most reads do.
        self._readers: deque[Connection] = deque()
        with ExitStack() as opening:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            opening.enter_context(exclusive(str(folder / "meta.lock"), f"the metadata under {folder}"))
            self._engine = _engine(folder / FILE)
            opening.callback(self._engine.dispose)
            self._writer = opening.enter_context(self._engine.connect())
            migrate(self._writer)
            size_log(driver(self._writer), folder / FILE)
            self._starts = self.write(_count_start)
            self.reserve = Reserve(folder)
            self._resources = opening.pop_all()

    @property
    def starts(self) -> int:
        """How often this database has been opened, this time included; durable, so names made from it are new."""
        return self._starts

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which reads. Each statement sees the last committed state; for one state over several statements,
        `read_consistent`."""
        try:
            connection = self._readers.pop()
        except IndexError:
            if self._closed:
                raise Internal("the metadata database is closed") from None
            connection = self._engine.connect()
        try:
            found = work(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, _DATABASE_ERRORS):
                raise _translated(error) from error
            raise
        self._readers.append(connection)
        return found

    def read_consistent(self, work: Callable[[Connection], T]) -> T:
        """As `read`, with one state of the database for all of `work`."""

        def transaction(connection: Connection) -> T:
            connection.exec_driver_sql("BEGIN")
            try:
                return work(connection)
            finally:
                connection.exec_driver_sql("ROLLBACK")

        return self.read(transaction)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True, makes_room: bool = False) -> T:
        """Run `work` in a transaction; when this returns, the change survives a power cut, or with `durable` false only
        the death of the process (it is on disk with the next durable one).

        `work` must not write elsewhere, nor wait: everybody else's writes wait for it. On any error nothing of it stays.
        `ResourceExhausted` for a full disk; with `makes_room` there is room kept for it, and it may be run twice.
        """
        if durable and self._batches.open:
            self._batches.unsynced, durable = True, False
        try:
            return self._write(work, durable)
        except ResourceExhausted:
            if not makes_room or not self.reserve.release():
                raise
        return self._write(work, durable)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Let the writes of this thread within the block share a sync: they survive a power cut when it is left. One
        within the block takes some of them or none, the last ones first."""
        if self._batches.open:
            yield
            return
        self._batches.open = True
        try:
            yield
        finally:
            unsynced, self._batches.open, self._batches.unsynced = self._batches.unsynced, False, False
            if unsynced:
                self.write(_touch, makes_room=True)

    def _write(self, work: Callable[[Connection], T], durable: bool) -> T:
        job = _Job(work, durable)
        self._queue.append(job)
        with self._lock:
            if not job.done:
                self._run_queue()
        return job.result()

    def close(self) -> None:
        """Close after the writes under way. Calls after it fail."""
        with self._lock:
            self._closed = True
            while self._readers:
                self._readers.pop().close()
            self._resources.close()

    def _run_queue(self) -> None:
        """Run all jobs that wait, this thread's among them, in one transaction."""
        jobs = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            self._transaction(jobs)
        except BaseException as error:  # noqa: BLE001 (raised again in every thread whose work is lost)
            for job in jobs:
                job.fail(error)
        finally:
            for job in jobs:
                job.done = True

    def _transaction(self, jobs: list[_Job[Any]]) -> None:
        database = driver(self._writer)
        execute = database.execute
        synchronous = "FULL" if any(job.durable for job in jobs) else "NORMAL"
        if synchronous != self._synchronous:
            execute(f"PRAGMA synchronous={synchronous}")
            self._synchronous = synchronous
        execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                if len(jobs) == 1:
                    if not job.run(self._writer):
                        execute("ROLLBACK")
                        return
                else:
                    execute("SAVEPOINT job")
                    if not job.run(self._writer):
                        execute("ROLLBACK TO job")
                    execute("RELEASE job")
            execute("COMMIT")
        except BaseException:
            # SQLite ends a transaction itself on some errors (a full disk); then there is nothing to roll back.
            if database.in_transaction:
                execute("ROLLBACK")
            raise


def _engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=-1,
        pool_reset_on_return=None,
        connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS, "cached_statements": 256},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def migrate(connection: Connection, target: str = schema.REVISION) -> None:
    """Bring the database to `target`, in one transaction. `FailedPrecondition` for one that a newer Moorage wrote."""
    current = _revision(connection)
    if current == target:
        return
    if current is not None and current > schema.REVISION:
        raise FailedPrecondition(
            f"the metadata database is at version {current}, written by a newer Moorage: this one knows up to {schema.REVISION}"
        )
    # Only now: a daemon that finds its database up to date starts without Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        command.upgrade(config, target)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    _log.info("metadata database migrated from %s to %s", current or "nothing", target)


def _revision(connection: Connection) -> str | None:
    known = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if known else None
    return None if row is None else str(row[0])


def _count_start(connection: Connection) -> int:
    update = schema.daemon_starts.update().values(count=schema.daemon_starts.c.count + 1)
    return int(connection.execute(update.returning(schema.daemon_starts.c.count)).scalar_one())


def _touch(connection: Connection) -> None:
    """Have something to commit: SQLite syncs its log only with what it adds to it, and passes over rows that stay as they
    are. The number, which nobody uses, is written each time."""
    driver(connection).execute("PRAGMA user_version = 0")


def _translated(error: SQLAlchemyError | sqlite3.Error) -> MoorageError:
    """What SQLite could not do. A full disk is the one error that an operator can do something about at once."""
    reason = str(getattr(error, "orig", None) or error)
    if isinstance(error, OperationalError | sqlite3.OperationalError) and "full" in reason:
        return ResourceExhausted(f"metadata database: {reason}")
    return Internal(f"metadata database: {reason}")
