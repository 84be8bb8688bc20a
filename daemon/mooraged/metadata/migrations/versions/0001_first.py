"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _namespace(table: str) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("namespace", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=f"fk_{table}_namespaces"),
    ]


def _text(*names: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names]


def _required(*names: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _maps(*names: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="{}") for name in names]


def _times(*names: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column(name, sa.Integer, nullable=False, server_default="0") for name in names]


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def upgrade() -> None:
    _namespaces()
    _content()
    _snapshots()
    _images()
    _containers()
    _leases()


def _namespaces() -> None:
    starts = op.create_table("daemon_starts", sa.Column("count", sa.Integer, nullable=False))
    op.bulk_insert(starts, [{"count": 0}])
    op.create_table(
        "namespaces", *_required("name"), *_maps("labels"), *_times("created_at"), _key("namespaces", "name")
    )


def _content() -> None:
    op.create_table(
        "blobs",
        *_namespace("blobs"),
        *_required("digest"),
        sa.Column("size", sa.Integer, nullable=False),
        *_maps("labels"),
        *_times("created_at", "updated_at"),
        _key("blobs", "namespace", "digest"),
    )
    op.create_index("ix_blobs_digest", "blobs", ["digest"])
    op.create_table(
        "ingests",
        *_namespace("ingests"),
        *_required("ref", "backend_ref"),
        *_text("expected", "shared"),
        *_times("created_at", "expires_at"),
        _key("ingests", "namespace", "ref"),
    )


def _snapshots() -> None:
    op.create_table(
        "snapshots",
        *_namespace("snapshots"),
        *_required("snapshotter", "name", "backend_key", "kind"),
        *_text("parent"),
        *_maps("labels"),
        *_times("created_at", "updated_at"),
        *_text("commit_name", "commit_key"),
        *_maps("commit_labels"),
        _key("snapshots", "namespace", "snapshotter", "name"),
    )
    op.create_index("ix_snapshots_namespace_snapshotter_parent", "snapshots", ["namespace", "snapshotter", "parent"])
    op.create_index("ix_snapshots_snapshotter_backend_key", "snapshots", ["snapshotter", "backend_key"])
    op.create_index("ix_snapshots_committing", "snapshots", ["commit_name"], sqlite_where=sa.text("commit_name != ''"))


def _images() -> None:
    op.create_table(
        "images",
        *_namespace("images"),
        *_required("name", "digest", "media_type"),
        sa.Column("size", sa.Integer, nullable=False),
        *_maps("annotations", "labels"),
        *_times("created_at", "updated_at"),
        _key("images", "namespace", "name"),
    )


def _containers() -> None:
    op.create_table(
        "containers",
        *_namespace("containers"),
        *_required("id"),
        sa.Column("name", sa.Text),
        *_text("image"),
        *_required("runtime"),
        sa.Column("runtime_options", sa.LargeBinary),
        sa.Column("spec", sa.LargeBinary),
        *_text("snapshotter", "snapshot_key"),
        *_maps("labels", "extensions"),
        *_text("sandbox_id"),
        *_times("created_at", "updated_at"),
        _key("containers", "namespace", "id"),
    )
    op.create_index("ix_containers_namespace_name", "containers", ["namespace", "name"], unique=True)
    op.create_table(
        "sandboxes",
        *_namespace("sandboxes"),
        *_required("id", "runtime"),
        sa.Column("runtime_options", sa.LargeBinary),
        sa.Column("spec", sa.LargeBinary),
        *_text("sandboxer"),
        *_maps("labels", "extensions"),
        *_times("created_at", "updated_at"),
        _key("sandboxes", "namespace", "id"),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        *_namespace("leases"),
        *_required("id"),
        *_maps("labels"),
        *_times("created_at"),
        _key("leases", "namespace", "id"),
    )
    op.create_table(
        "lease_resources",
        *_required("namespace", "lease", "type", "id"),
        _key("lease_resources", "namespace", "lease", "type", "id"),
        sa.ForeignKeyConstraint(
            ["namespace", "lease"],
            ["leases.namespace", "leases.id"],
            name="fk_lease_resources_leases",
            ondelete="CASCADE",
        ),
    )
