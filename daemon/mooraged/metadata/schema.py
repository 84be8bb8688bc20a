"""The database's tables, as the newest migration leaves them.

Every object's key starts with its namespace, and a namespace cannot go while a row still names it. Labels and other
maps are JSON objects; times are nanoseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import (
    Column,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

from moorage_api.types import TypedValue

REVISION = "0001"
"""The migration that makes this schema."""

_encoder = msgspec.json.Encoder(order="deterministic")
_maps = msgspec.json.Decoder(dict[str, str])
_values = msgspec.json.Decoder(dict[str, tuple[str, bytes]])


class StringMap(TypeDecorator[Mapping[str, str]]):
    """Labels or annotations."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, str] | None, dialect: Dialect) -> str:
        return _encoder.encode(value).decode() if value else "{}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, str]:
        return _maps.decode(value) if value and value != "{}" else {}


class ValueMap(TypeDecorator[Mapping[str, TypedValue]]):
    """Extensions: typed values by name."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, TypedValue] | None, dialect: Dialect) -> str:
        pairs = {key: (typed.type_url, typed.value) for key, typed in (value or {}).items()}
        return _encoder.encode(pairs).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> dict[str, TypedValue]:
        pairs = _values.decode(value) if value and value != "{}" else {}
        return {key: TypedValue(type_url, data) for key, (type_url, data) in pairs.items()}


class Value(TypeDecorator[TypedValue]):
    """A typed value or NULL: the type's URL, a zero byte, the bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: TypedValue | None, dialect: Dialect) -> bytes | None:
        return None if value is None else b"%b\0%b" % (value.type_url.encode(), value.value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> TypedValue | None:
        if value is None:
            return None
        type_url, _, data = value.partition(b"\0")
        return TypedValue(type_url.decode(), data)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _namespace() -> Column[str]:
    return Column("namespace", Text, ForeignKey("namespaces.name"), primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _map(name: str) -> Column[Mapping[str, str]]:
    return Column(name, StringMap, nullable=False, server_default="{}")


def _time(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


daemon_starts = Table("daemon_starts", metadata, Column("count", Integer, nullable=False))
"""One row: how often the database has been opened. Names made from it are never used twice."""

namespaces = Table("namespaces", metadata, Column("name", Text, primary_key=True), _map("labels"), _time("created_at"))

blobs = Table(
    "blobs",
    metadata,
    _namespace(),
    Column("digest", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    _map("labels"),
    _time("created_at"),
    _time("updated_at"),
    Index(None, "digest"),
)

ingests = Table(
    "ingests",
    metadata,
    _namespace(),
    Column("ref", Text, primary_key=True),
    Column("backend_ref", Text, nullable=False),
    # What the writer announced.
    _text("expected"),
    # The digest of another namespace's blob that stands for the bytes, where sharing is allowed.
    _text("shared"),
    _time("created_at"),
    # When it may be collected; zero where a lease holds it.
    _time("expires_at"),
)

snapshots = Table(
    "snapshots",
    metadata,
    _namespace(),
    Column("snapshotter", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("backend_key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    _text("parent"),
    _map("labels"),
    _time("created_at"),
    _time("updated_at"),
    # Set while a commit is under way in the backend; a start after a crash finishes or forgets it.
    _text("commit_name"),
    _text("commit_key"),
    _map("commit_labels"),
    Index(None, "namespace", "snapshotter", "parent"),
    Index(None, "snapshotter", "backend_key"),
    Index("ix_snapshots_committing", "commit_name", sqlite_where=text("commit_name != ''")),
)

images = Table(
    "images",
    metadata,
    _namespace(),
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", Integer, nullable=False),
    _map("annotations"),
    _map("labels"),
    _time("created_at"),
    _time("updated_at"),
)

containers = Table(
    "containers",
    metadata,
    _namespace(),
    Column("id", Text, primary_key=True),
    # The label `moorage.io/name`; NULL where there is none, because it is unique.
    Column("name", Text),
    _text("image"),
    Column("runtime", Text, nullable=False),
    Column("runtime_options", Value),
    Column("spec", Value),
    _text("snapshotter"),
    _text("snapshot_key"),
    _map("labels"),
    Column("extensions", ValueMap, nullable=False, server_default="{}"),
    _text("sandbox_id"),
    _time("created_at"),
    _time("updated_at"),
    Index(None, "namespace", "name", unique=True),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    _namespace(),
    Column("id", Text, primary_key=True),
    Column("runtime", Text, nullable=False),
    Column("runtime_options", Value),
    Column("spec", Value),
    _text("sandboxer"),
    _map("labels"),
    Column("extensions", ValueMap, nullable=False, server_default="{}"),
    _time("created_at"),
    _time("updated_at"),
)

leases = Table(
    "leases", metadata, _namespace(), Column("id", Text, primary_key=True), _map("labels"), _time("created_at")
)

lease_resources = Table(
    "lease_resources",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("lease", Text, primary_key=True),
    # `content`, `ingests`, `images` or `snapshots/NAME`.
    Column("type", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    ForeignKeyConstraint(["namespace", "lease"], ["leases.namespace", "leases.id"], ondelete="CASCADE"),
)
