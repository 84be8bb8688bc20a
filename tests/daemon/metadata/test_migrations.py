"""Every migration upgrades a database that the version before it wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from moorage_api.errors import FailedPrecondition
from mooraged.metadata import database as database_module
from mooraged.metadata import schema
from mooraged.metadata.database import FILE, Database, migrate

BEFORE = Path(__file__).with_name("databases")
"""`NNNN.sql`: a dump of a database as version NNNN left it, with something in every table. `0000.sql` is an empty one."""


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).with_name("migrations")))
    return ScriptDirectory.from_config(config)


STEPS = [(script.down_revision or "0000", script.revision) for script in scripts().walk_revisions()][::-1]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / FILE}", isolation_level="AUTOCOMMIT")
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def test_the_newest_is_the_one_the_code_knows() -> None:
    assert scripts().get_heads() == [schema.REVISION]


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_each_step_upgrades_what_the_one_before_wrote(
    before: str, after: str, connection: Connection, tmp_path: Path
) -> None:
    dump = BEFORE / f"{before}.sql"
    assert dump.exists(), f"keep a dump of a database at version {before}, for the migration to {after}"
    with sqlite3.connect(tmp_path / FILE) as raw:
        raw.executescript(dump.read_text())
        rows = sum(1 for line in raw.iterdump() if line.startswith("INSERT") and "alembic_version" not in line)
    raw.close()
    migrate(connection, after)
    assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == after
    with sqlite3.connect(tmp_path / FILE) as raw:
        kept = sum(1 for line in raw.iterdump() if line.startswith("INSERT") and "alembic_version" not in line)
    raw.close()
    assert kept >= rows


def test_the_migrations_make_the_schema_of_the_code(connection: Connection) -> None:
    migrate(connection)
    migrate(connection)  # again is nothing
    assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    fresh = create_engine("sqlite://")
    with fresh.connect() as made:
        schema.metadata.create_all(made)
        assert shape(connection) == shape(made)
    fresh.dispose()


def shape(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """What SQLite says of every table: columns with types and defaults, foreign keys, indices."""
    found = {}
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    for table in sorted(set(tables) - {"alembic_version"}):
        for pragma in ("table_info", "foreign_key_list"):
            found[f"{table} {pragma}"] = [tuple(row) for row in connection.exec_driver_sql(f"PRAGMA {pragma}({table})")]
        indices = connection.exec_driver_sql(f"PRAGMA index_list({table})").all()
        found[f"{table} indices"] = sorted((row.name, row.unique, row.partial) for row in indices)
    return found


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    Database(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(FailedPrecondition, match=r"9999.*newer"):
        Database(tmp_path)


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.exec_driver_sql("CREATE TABLE sandboxes (in_the_way TEXT)")
    with pytest.raises(Exception, match="sandboxes"):
        migrate(connection)
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    assert tables == ["sandboxes"]
