"""Reading the graph from the database. Labels are decoded only where they have something to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, Text, select, type_coerce

from mooraged.gc import labels as gc_labels
from mooraged.gc.graph import Graph, Kind, Node
from mooraged.metadata import schema
from mooraged.metadata.statements import Statement

_decode = msgspec.json.Decoder(dict[str, str]).decode


def _columns(table: Table, *names: str) -> Statement:
    """The columns, and the labels last, undecoded."""
    return Statement(select(*(table.c[name] for name in names), type_coerce(table.c.labels, Text)))


_leases = _columns(schema.leases, "namespace", "id")
_resources = Statement(select(*(schema.lease_resources.c[name] for name in ("namespace", "lease", "type", "id"))))
_images = _columns(schema.images, "namespace", "name", "digest")
_blobs = _columns(schema.blobs, "namespace", "digest")
_containers = _columns(schema.containers, "namespace", "id", "snapshotter", "snapshot_key")
_sandboxes = _columns(schema.sandboxes, "namespace", "id")
_snapshots = _columns(schema.snapshots, "namespace", "snapshotter", "name", "parent", "commit_name")
_ingests = Statement(
    select(*(schema.ingests.c[name] for name in ("namespace", "ref", "backend_ref", "shared", "expires_at")))
)


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

    def _rows(self, statement: Statement) -> Iterable[Any]:
        """Plain tuples: all other writes wait while they are read."""
        return statement.run(self._connection, {})

    def _leases(self) -> None:
        flat_leases: dict[tuple[str, str], bool] = {}
        for namespace, id, encoded in self._rows(_leases):
            node = Node(Kind.LEASE, namespace, id)
            labels = _gc_labels(encoded)
            self._graph.objects.add(node)
            if not gc_labels.is_expired(labels, self._now, f"lease {id!r}"):
                self._graph.root(node)
                flat_leases[namespace, id] = gc_labels.FLAT in labels
        for namespace, lease, type, id in self._rows(_resources):
            flat = flat_leases.get((namespace, lease))
            if flat is not None:
                self._graph.root(_resource(namespace, type, id).flattened(flat), Node(Kind.LEASE, namespace, lease))

    def _images(self) -> None:
        for namespace, name, digest, encoded in self._rows(_images):
            node = Node(Kind.IMAGE, namespace, name)
            labels = self._object(node, encoded)
            self._graph.structure[node] = [Node(Kind.CONTENT, namespace, digest)]
            if not gc_labels.is_expired(labels, self._now, f"image {name!r}"):
                self._graph.root(node)

    def _content(self) -> None:
        for namespace, digest, encoded in self._rows(_blobs):
            node = Node(Kind.CONTENT, namespace, digest)
            if gc_labels.is_root(self._object(node, encoded)):
                self._graph.root(node)

    def _ingests(self) -> None:
        now = int(self._now.timestamp() * 1_000_000_000)
        for namespace, ref, backend_ref, shared, expires_at in self._rows(_ingests):
            node = Node(Kind.INGEST, namespace, ref)
            self._graph.objects.add(node)
            if expires_at > now or self._in_use(backend_ref):
                self._graph.root(node)
            if shared:
                self._graph.refer(node, Node(Kind.CONTENT, namespace, shared))

    def _snapshots(self) -> None:
        for namespace, snapshotter, name, parent, commit_name, encoded in self._rows(_snapshots):
            node = Node(Kind.SNAPSHOT, namespace, f"{snapshotter}/{name}")
            labels = self._object(node, encoded)
            if parent:
                self._graph.structure[node] = [Node(Kind.SNAPSHOT, namespace, f"{snapshotter}/{parent}")]
            # One whose commit is under way is in somebody's hands, whoever refers to it.
            if commit_name or gc_labels.is_root(labels):
                self._graph.root(node)

    def _containers(self) -> None:
        for namespace, id, snapshotter, snapshot_key, encoded in self._rows(_containers):
            node = Node(Kind.CONTAINER, namespace, id)
            self._labels(node, encoded)
            self._graph.root(node)
            if snapshotter:
                self._graph.refer(node, Node(Kind.SNAPSHOT, namespace, f"{snapshotter}/{snapshot_key}"))

    def _sandboxes(self) -> None:
        for namespace, id, encoded in self._rows(_sandboxes):
            for target in gc_labels.references(namespace, _gc_labels(encoded)):
                self._graph.root(target, Node(Kind.SANDBOX, namespace, id))

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
