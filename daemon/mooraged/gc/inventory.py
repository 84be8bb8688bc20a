"""What lies in the backends, and by which records of the database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, select

from moorage_api.content import ContentStore, Info
from moorage_api.errors import FailedPrecondition, NotFound
from mooraged.gc.graph import Graph, Kind, Node
from mooraged.gc.scan import Scan
from mooraged.metadata import Metadata, schema

_BLOCK = 512


class Key(NamedTuple):
    """An object of a backend; `store` is the snapshotter, empty for content and ingests."""

    kind: Kind
    store: str
    name: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look at everything. `sizes` are bytes on disk; `records` the database's names for each object, in order."""

    sizes: dict[Key, int]
    records: dict[Key, list[Node]]
    graph: Graph

    @property
    def keys(self) -> dict[Node, Key]:
        """The object of each record."""
        return {node: key for key, nodes in self.records.items() for node in nodes}

    @property
    def orphans(self) -> list[Key]:
        """Objects that no namespace has a record of."""
        return [key for key in self.sizes if key not in self.records]


def take(metadata: Metadata) -> Inventory:
    """Look at the backends, then at the database: what is in the making meanwhile is left out."""
    in_use = metadata.shared.gate.in_use
    sizes = {key: size for key, size in _sizes(metadata) if not in_use(key.name)}

    def work(connection: Connection) -> tuple[dict[Key, list[Node]], Graph]:
        return _records(connection), Scan(connection, in_use).graph()

    records, graph = metadata.shared.database.read_consistent(work)
    making = [key for key in sizes if key not in records and in_use(key.name)]
    for key in making:
        del sizes[key]
    return Inventory(sizes, records, graph)


def _sizes(metadata: Metadata) -> Iterator[tuple[Key, int]]:
    for info in metadata.backend.walk():
        yield Key(Kind.CONTENT, "", info.digest), _on_disk(metadata.backend, info)
    for status in metadata.backend.statuses():
        yield Key(Kind.INGEST, "", status.ref), status.offset
    for name, snapshotter in metadata.snapshotters.items():
        for snapshot in snapshotter.walk():
            try:
                size = snapshotter.usage(snapshot.name).size
            except (NotFound, FailedPrecondition):
                continue  # gone, or another kind of snapshot since it was listed
            yield Key(Kind.SNAPSHOT, name, snapshot.name), size


def _on_disk(content: ContentStore, info: Info) -> int:
    """The blocks of a blob's file; the bytes of a blob that is no file on this machine."""
    try:
        with content.open(info.digest) as reader:
            return os.stat(reader.path).st_blocks * _BLOCK if reader.path is not None else info.size
    except (NotFound, FileNotFoundError):
        return 0


def _records(connection: Connection) -> dict[Key, list[Node]]:
    found: dict[Key, list[Node]] = {}

    def add(key: Key, node: Node) -> None:
        found.setdefault(key, []).append(node)

    blobs, ingests, snapshots = schema.blobs.c, schema.ingests.c, schema.snapshots.c
    for namespace, digest in connection.execute(select(blobs.namespace, blobs.digest).order_by(blobs.namespace)):
        add(Key(Kind.CONTENT, "", digest), Node(Kind.CONTENT, namespace, digest))
    for namespace, ref, backend_ref in connection.execute(select(ingests.namespace, ingests.ref, ingests.backend_ref)):
        add(Key(Kind.INGEST, "", backend_ref), Node(Kind.INGEST, namespace, ref))
    columns = (snapshots.namespace, snapshots.snapshotter, snapshots.name, snapshots.backend_key, snapshots.commit_key)
    for namespace, store, name, backend_key, commit_key in connection.execute(select(*columns)):
        for key in filter(None, (backend_key, commit_key)):
            add(Key(Kind.SNAPSHOT, store, key), Node(Kind.SNAPSHOT, namespace, f"{store}/{name}"))
    return found
