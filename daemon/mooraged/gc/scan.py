"""Reading the graph from the database. Labels are decoded only where they have something to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, Text, select, type_coerce

from mooraged.gc import labels as gc_labels
from mooraged.gc.graph import Graph, Kind, Node
from mooraged.metadata import schema

_decode = msgspec.json.Decoder(dict[str, str]).decode


def _columns(table: Table, *names: str) -> Any:
    """The columns, with labels undecoded."""
    return select(*(table.c[name] for name in names), type_coerce(table.c.labels, Text).label("labels"))


_leases = _columns(schema.leases, "namespace", "id")
_resources = select(schema.lease_resources)
_images = _columns(schema.images, "namespace", "name", "digest")
_blobs = _columns(schema.blobs, "namespace", "digest")
_containers = _columns(schema.containers, "namespace", "id", "snapshotter", "snapshot_key")
_sandboxes = _columns(schema.sandboxes, "namespace", "id")
_snapshots = _columns(schema.snapshots, "namespace", "snapshotter", "name", "parent", "commit_name")
_ingests = select(*(schema.ingests.c[name] for name in ("namespace", "ref", "backend_ref", "shared", "expires_at")))


class Scan:
    """One reading of the database."""

    def __init__(self, connection: Connection, in_use: Callable[[str], bool], now: datetime | None = None) -> None:
        """`in_use` tells whether an ingest, by its key in the backend, is open."""
        self._connection = connection
        self._in_use = in_use
        self._now = now or datetime.now(UTC)
        self._graph = Graph()

    def graph(self) -> Graph:
        """All that is in the database."""
        self._leases()
        self._images()
        self._content()
        self._ingests()
        self._snapshots()
        self._containers()
        self._sandboxes()
        return self._graph

    def _rows(self, statement: Any) -> Iterable[Row[Any]]:
        return self._connection.execute(statement)

    def _leases(self) -> None:
        flat_leases: dict[tuple[str, str], bool] = {}
        for row in self._rows(_leases):
            node = Node(Kind.LEASE, row.namespace, row.id)
            labels = _gc_labels(row.labels)
            self._graph.objects.add(node)
            if not gc_labels.is_expired(labels, self._now, f"lease {row.id!r}"):
                self._graph.root(node)
                flat_leases[row.namespace, row.id] = gc_labels.FLAT in labels
        for row in self._rows(_resources):
            flat = flat_leases.get((row.namespace, row.lease))
            if flat is not None:
                held = _resource(row.namespace, row.type, row.id).flattened(flat)
                self._graph.root(held, Node(Kind.LEASE, row.namespace, row.lease))

    def _images(self) -> None:
        for row in self._rows(_images):
            node = Node(Kind.IMAGE, row.namespace, row.name)
            labels = self._object(node, row.labels)
            self._graph.structure[node] = [Node(Kind.CONTENT, row.namespace, row.digest)]
            if not gc_labels.is_expired(labels, self._now, f"image {row.name!r}"):
                self._graph.root(node)

    def _content(self) -> None:
        for row in self._rows(_blobs):
            node = Node(Kind.CONTENT, row.namespace, row.digest)
            if gc_labels.is_root(self._object(node, row.labels)):
                self._graph.root(node)

    def _ingests(self) -> None:
        now = int(self._now.timestamp() * 1_000_000_000)
        for row in self._rows(_ingests):
            node = Node(Kind.INGEST, row.namespace, row.ref)
            self._graph.objects.add(node)
            if row.expires_at > now or self._in_use(row.backend_ref):
                self._graph.root(node)
            if row.shared:
                self._graph.refer(node, Node(Kind.CONTENT, row.namespace, row.shared))

    def _snapshots(self) -> None:
        for row in self._rows(_snapshots):
            node = Node(Kind.SNAPSHOT, row.namespace, f"{row.snapshotter}/{row.name}")
            labels = self._object(node, row.labels)
            if row.parent:
                parent = Node(Kind.SNAPSHOT, row.namespace, f"{row.snapshotter}/{row.parent}")
                self._graph.structure[node] = [parent]
            # One whose commit is under way is in somebody's hands, whoever refers to it.
            if row.commit_name or gc_labels.is_root(labels):
                self._graph.root(node)

    def _containers(self) -> None:
        for row in self._rows(_containers):
            node = Node(Kind.CONTAINER, row.namespace, row.id)
            self._labels(node, row.labels)
            self._graph.root(node)
            if row.snapshotter:
                key = f"{row.snapshotter}/{row.snapshot_key}"
                self._graph.refer(node, Node(Kind.SNAPSHOT, row.namespace, key))

    def _sandboxes(self) -> None:
        for row in self._rows(_sandboxes):
            for target in gc_labels.references(row.namespace, _gc_labels(row.labels)):
                self._graph.root(target, Node(Kind.SANDBOX, row.namespace, row.id))

    def _object(self, node: Node, encoded: str) -> dict[str, str]:
        """Enter something that may be collected, with its references both ways; returns its labels."""
        self._graph.objects.add(node)
        return self._labels(node, encoded)

    def _labels(self, node: Node, encoded: str) -> dict[str, str]:
        labels = _gc_labels(encoded)
        for target in gc_labels.references(node.namespace, labels):
            self._graph.refer(node, target)
        for keeper in gc_labels.back_references(node.namespace, labels):
            self._graph.refer(keeper, node)
        return labels


def _gc_labels(encoded: str) -> dict[str, str]:
    return _decode(encoded) if gc_labels.PREFIX in encoded else {}


def _resource(namespace: str, type: str, id: str) -> Node:
    """What a lease holds, as a node."""
    kind, _, snapshotter = type.partition("/")
    if kind == "snapshots":
        return Node(Kind.SNAPSHOT, namespace, f"{snapshotter}/{id}")
    return Node({"content": Kind.CONTENT, "ingests": Kind.INGEST, "images": Kind.IMAGE}[kind], namespace, id)
