"""The database: one writer, shared transactions, what a failed one leaves."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from moorage_api.errors import FailedPrecondition, Internal, ResourceExhausted
from mooraged.metadata.database import FILE, Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path)
    yield opened
    opened.close()


def add(name: str):
    return lambda connection: connection.execute(text("INSERT INTO namespaces (name) VALUES (:n)"), {"n": name})


def names(database: Database) -> list[str]:
    query = text("SELECT name FROM namespaces ORDER BY name")
    return database.read(lambda connection: list(connection.execute(query).scalars()))


def test_a_second_daemon_is_told_who_has_it(database: Database, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"in use by another daemon \(pid \d+\)"):
        Database(tmp_path)
    assert names(database) == []


def test_starts_are_counted(database: Database, tmp_path: Path) -> None:
    assert database.starts == 1
    database.close()
    again = Database(tmp_path)
    assert again.starts == 2
    again.close()


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def fails(connection: Connection) -> None:
        add("half")(connection)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        database.write(fails)
    with pytest.raises(Internal, match="UNIQUE"):
        database.write(lambda connection: (add("twice")(connection), add("twice")(connection)))
    database.write(add("whole"))
    assert names(database) == ["whole"]


def test_writers_that_wait_share_a_transaction_and_not_their_failures(database: Database) -> None:
    """While the first holds the writer, the others queue up; then all run in one transaction."""
    started, go = threading.Event(), threading.Event()
    transactions: list[int] = []
    errors: list[BaseException] = []

    def blocks(connection: Connection) -> None:
        started.set()
        assert go.wait(20)

    def write(number: int) -> None:
        def work(connection: Connection) -> None:
            transactions.append(threading.get_ident())
            add(f"n{number}")(connection)
            if number % 3 == 0:
                raise ValueError(number)

        try:
            database.write(work)
        except ValueError as error:
            errors.append(error)

    first = threading.Thread(target=database.write, args=(blocks,))
    first.start()
    assert started.wait(20)
    others = [threading.Thread(target=write, args=(number,)) for number in range(9)]
    for thread in others:
        thread.start()
    while len(database._queue) < 9:
        pass
    go.set()
    for thread in [first, *others]:
        thread.join(20)
    assert len(set(transactions)) == 1, "one thread did the work of all who waited"
    assert sorted(error.args[0] for error in errors) == [0, 3, 6]
    assert names(database) == [f"n{number}" for number in range(9) if number % 3]


def test_readers_do_not_wait_for_the_writer(database: Database) -> None:
    database.write(add("before"))
    seen: list[list[str]] = []

    def work(connection: Connection) -> None:
        add("during")(connection)
        reader = threading.Thread(target=lambda: seen.append(names(database)))
        reader.start()
        reader.join(20)

    database.write(work)
    assert seen == [["before"]]
    assert names(database) == ["before", "during"]


def test_a_consistent_read_sees_one_state(database: Database) -> None:
    def work(connection: Connection) -> tuple[int, int]:
        count = text("SELECT count(*) FROM namespaces")
        first = connection.execute(count).scalar_one()
        writer = threading.Thread(target=database.write, args=(add("meanwhile"),))
        writer.start()
        writer.join(20)
        return first, connection.execute(count).scalar_one()

    assert database.read_consistent(work) == (0, 0)
    assert names(database) == ["meanwhile"]


def test_a_full_disk_is_said(database: Database) -> None:
    database.write(lambda connection: connection.execute(text("PRAGMA max_page_count = 1")))
    with pytest.raises(ResourceExhausted, match="full"):
        database.write(lambda connection: [add(f"{number}" * 3000)(connection) for number in range(200)])
    database.write(lambda connection: connection.execute(text("PRAGMA max_page_count = 1000000")))
    database.write(add("fits"))
    assert names(database) == ["fits"]


def test_an_acknowledged_write_is_synced(database: Database, tmp_path: Path) -> None:
    """Durable writes use SQLite's FULL; those that need not be use NORMAL, which is enough against kill -9."""
    synchronous = text("PRAGMA synchronous")
    assert database.write(lambda connection: connection.execute(synchronous).scalar_one()) == 2
    assert database.write(lambda connection: connection.execute(synchronous).scalar_one(), durable=False) == 1
    with database.batch():
        assert database.write(lambda connection: connection.execute(synchronous).scalar_one()) == 1
        database.write(add("a"))
        log = (tmp_path / f"{FILE}-wal").read_bytes()
    # Only with something new in its log does SQLite sync it.
    assert (tmp_path / f"{FILE}-wal").read_bytes() != log
    assert database.write(lambda connection: connection.execute(synchronous).scalar_one()) == 2
    assert database.write(lambda connection: connection.execute(synchronous).scalar_one()) == 2
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
