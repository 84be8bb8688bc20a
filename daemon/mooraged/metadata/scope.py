"""What the stores of one namespace have in common: the database, the binding, and how others hear of a change."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message
from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite import insert

from moorage_api.errors import MoorageError, Unavailable
from moorage_api.events import EventBus
from mooraged.metadata import resources, schema
from mooraged.metadata.database import Database
from mooraged.metadata.gate import Gate
from mooraged.metadata.snapshot_cache import SnapshotCache
from mooraged.metadata.statements import Statement

_log = logging.getLogger(__name__)
T = TypeVar("T")

_add_namespace = Statement(insert(schema.namespaces).on_conflict_do_nothing(), ("name", "created_at"))
_NUMBERS_PER_START = 1_000_000_000

MutationCallback = Callable[[bool], None]


@dataclass(frozen=True)
class Shared:
    """What all namespaces share."""

    database: Database
    gate: Gate = field(default_factory=Gate)
    snapshots: SnapshotCache = field(default_factory=SnapshotCache)
    events: EventBus | None = None
    mutations: list[MutationCallback] = field(default_factory=list)
    collectors: list[Callable[[], object]] = field(default_factory=list)
    dirty: set[str] = field(default_factory=set)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def backend_key(self, namespace: str, name: str) -> str:
        """A key for a new backend object: namespace and name for the eye, and a number never given before."""
        return f"{namespace}/{self.database.starts * _NUMBERS_PER_START + next(self._numbers)}/{name}"

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Tell of a change that is committed. It stands even if nobody can be told, so an error is only logged."""
        if self.events is None:
            return
        try:
            self.events.publish(namespace, topic, event)
        except MoorageError:
            _log.exception("event %s of namespace %s is lost", topic, namespace)

    def mutated(self, *, removed: bool) -> None:
        """Tell the collector's scheduler of a committed change."""
        for callback in self.mutations:
            callback(removed)

    def collect(self) -> None:
        """Collect garbage now, and return when it is gone. `Unavailable` where no collector runs."""
        if not self.collectors:
            raise Unavailable("garbage collection is not running")
        for collect in self.collectors:
            collect()


@dataclass(frozen=True)
class Scope:
    """One namespace, and the lease that its caller works under, or none."""

    shared: Shared
    namespace: str
    lease: str = ""

    def read(self, work: Callable[[Connection], T]) -> T:
        """`Database.read`."""
        return self.shared.database.read(work)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """`Database.write`, in a namespace that is there."""

        def in_namespace(connection: Connection) -> T:
            add_namespace(connection, self.namespace)
            return work(connection)

        return self.change(in_namespace, durable=durable)

    def change(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """As `write`, for work that changes what is there, and its namespace with it."""
        result = self.shared.database.write(work, durable=durable)
        self.shared.mutated(removed=False)
        return result

    def remove(self, work: Callable[[Connection], T], dirty: str = "") -> T:
        """`Database.write` for work that takes a reference away; `dirty` names the backend that may now hold garbage."""
        result = self.shared.database.write(work, makes_room=True)
        if dirty:
            self.shared.dirty.add(dirty)
        self.shared.mutated(removed=True)
        return result

    def publish(self, topic: str, event: Message) -> None:
        """Tell of a committed change of this namespace."""
        self.shared.publish(self.namespace, topic, event)

    def hold(self, connection: Connection, type: str, id: str) -> None:
        """Add a resource to the bound lease, if any. `NotFound` where the lease is gone."""
        if self.lease:
            resources.check_lease(connection, self.namespace, self.lease)
            resources.add(connection, self.namespace, self.lease, type, id)

    def release(self, connection: Connection, type: str, id: str) -> None:
        """Take a resource from the bound lease, if any; what other leases hold is theirs."""
        if self.lease:
            resources.delete(connection, self.namespace, self.lease, type, id)


def add_namespace(connection: Connection, name: str) -> None:
    """Make the namespace if it is not there."""
    _add_namespace.run(connection, {"name": name, "created_at": time.time_ns()})
