"""One collection: mark and sweep the database in one transaction, then sweep the backends.

The transaction is the gate: no write of metadata stands between what was marked and what is swept. What a client is
making meanwhile is kept off the backends' sweep by `mooraged.metadata.gate`. A crash between the two sweeps leaves
orphans in the backends; the first collection of every start sweeps all of them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection

from moorage_api.errors import MoorageError
from moorage_api.garbage import Collected
from moorage_api.wire import events_types_pb2, images_pb2
from mooraged.gc.backends import BackendSweep
from mooraged.gc.graph import Kind, Node
from mooraged.gc.scan import Scan
from mooraged.gc.sweep import sweep
from mooraged.metadata import Metadata
from mooraged.metadata.content import DIRTY as CONTENT
from mooraged.metadata.snapshots import dirty_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stats(Collected):
    """What a collection did; `pause` is how long other writes of metadata waited for it (seconds)."""

    pause: float = 0.0


class Collector:
    """Collects when asked. Not for several threads at once: `Scheduler` sees to that."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._shared = metadata.shared
        self._shared.dirty.update([CONTENT, *map(dirty_name, metadata.snapshotters)])

    def plan(self) -> set[Node]:
        """What a collection would remove now."""
        return self._shared.database.read_consistent(self._garbage)

    def collect(self) -> Stats:
        """Collect; returns when the backends are swept too. Raises only what the database raises."""
        start = time.monotonic()
        garbage, pause = self._sweep_database()
        self._publish(garbage)
        for node in garbage:
            self._mark_dirty(node)
        blobs, size, ingests = self._sweep_content()
        snapshots = sum(self._sweep_snapshots(name) for name in self._metadata.snapshotters)
        self._shared.database.reserve.refill()
        stats = Stats(
            records=Counter(node.kind.value for node in garbage),
            blobs=blobs,
            blob_bytes=size,
            ingests=ingests,
            snapshots=snapshots,
            pause=pause,
            seconds=time.monotonic() - start,
        )
        _log.debug("garbage collected: %s", stats)
        return stats

    def _garbage(self, connection: Connection) -> set[Node]:
        return Scan(connection, self._shared.gate.in_use).graph().garbage()

    def _sweep_database(self) -> tuple[set[Node], float]:
        seconds = 0.0
        garbage: set[Node] = set()

        def work(connection: Connection) -> None:
            nonlocal seconds, garbage
            start = time.monotonic()
            garbage = self._garbage(connection)
            sweep(connection, garbage)
            seconds = time.monotonic() - start

        try:
            self._shared.database.write(work, makes_room=True)
        finally:
            self._forget(garbage)
        return garbage, seconds

    def _forget(self, garbage: set[Node]) -> None:
        """Leave nothing of it in memory."""
        nodes = [node for node in garbage if node.kind is Kind.SNAPSHOT]
        parts = [(node.namespace, node.key.partition("/")) for node in nodes]
        self._shared.snapshots.forget(*((namespace, snapshotter, name) for namespace, (snapshotter, _, name) in parts))

    def _publish(self, garbage: set[Node]) -> None:
        for node in sorted(garbage, key=lambda node: node.key):
            if node.kind is Kind.IMAGE:
                self._shared.publish(node.namespace, "/images/delete", images_pb2.ImageDelete(name=node.key))
            elif node.kind is Kind.SNAPSHOT:
                snapshotter, _, key = node.key.partition("/")
                event = events_types_pb2.SnapshotRemove(key=key, snapshotter=snapshotter)
                self._shared.publish(node.namespace, "/snapshot/remove", event)

    def _mark_dirty(self, node: Node) -> None:
        if node.kind in (Kind.CONTENT, Kind.INGEST):
            self._shared.dirty.add(CONTENT)
        elif node.kind is Kind.SNAPSHOT:
            self._shared.dirty.add(dirty_name(node.key.partition("/")[0]))

    def _sweep_content(self) -> tuple[int, int, int]:
        if CONTENT not in self._shared.dirty:
            return 0, 0, 0
        self._shared.dirty.discard(CONTENT)  # before the sweep: what becomes garbage during it is swept by the next
        backends = BackendSweep(self._shared)
        try:
            blobs, size = backends.blobs(self._metadata.backend)
            ingests = backends.ingests(self._metadata.backend)
        except MoorageError:
            _log.exception("garbage collection of content failed")
            self._shared.dirty.add(CONTENT)
            return 0, 0, 0
        if backends.failed:
            self._shared.dirty.add(CONTENT)
        return blobs, size, ingests

    def _sweep_snapshots(self, name: str) -> int:
        dirty = dirty_name(name)
        if dirty not in self._shared.dirty:
            return 0
        self._shared.dirty.discard(dirty)
        backends = BackendSweep(self._shared)
        try:
            removed = backends.snapshots(name, self._metadata.snapshotters[name])
        except MoorageError:
            _log.exception("garbage collection of snapshots in %s failed", name)
            self._shared.dirty.add(dirty)
            return 0
        if backends.failed:
            self._shared.dirty.add(dirty)
        return removed
