"""The whole of the metadata: opened once, bound to a namespace for each caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Connection, select

from moorage_api.content import ContentStore
from moorage_api.errors import NotFound
from moorage_api.events import EventBus
from moorage_api.snapshots import Snapshotter
from moorage_api.types import check_identifier
from mooraged.metadata import schema
from mooraged.metadata.containers import Containers
from mooraged.metadata.content import Content, SharingPolicy
from mooraged.metadata.database import Database
from mooraged.metadata.images import Images
from mooraged.metadata.leases import Leases
from mooraged.metadata.namespaces import Namespaces
from mooraged.metadata.recovery import finish_commits
from mooraged.metadata.sandboxes import Sandboxes
from mooraged.metadata.scope import MutationCallback, Scope, Shared
from mooraged.metadata.snapshots import NamespacedSnapshotter

_committing = select(schema.snapshots.c.namespace, schema.snapshots.c.snapshotter).distinct()
_committing = _committing.where(schema.snapshots.c.commit_name != "")


class Metadata:
    """The database and the backends under it. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        *,
        events: EventBus | None = None,
        policy: SharingPolicy = SharingPolicy.ISOLATED,
        default_snapshotter: str = "",
    ) -> None:
        """Open `folder`/meta.db and settle what a crash left open. Errors as `Database`."""
        self.backend = content
        self.snapshotters = dict(snapshotters)
        self.default_snapshotter = default_snapshotter or next(iter(sorted(snapshotters)), "")
        self._policy = policy
        self.shared = Shared(Database(folder), events=events)
        self.namespaces = Namespaces(self.shared)
        self._recover()

    def bind(self, namespace: str, lease: str = "") -> View:
        """What one namespace has. With a lease, what is written is added to it: `NotFound` by the write if the lease
        is not there; reading does not ask. `InvalidArgument` for a malformed namespace."""
        check_identifier(namespace, "namespace")
        return View(self, Scope(self.shared, namespace, lease))

    def content_of(self, scope: Scope) -> Content:
        """The content store bound to `scope`."""
        return Content(scope, self.backend, self._policy)

    def snapshotter_of(self, scope: Scope, name: str) -> NamespacedSnapshotter:
        """The snapshotter `name`, or the default one, bound to `scope`. `NotFound`, with the names there are."""
        name = name or self.default_snapshotter
        backend = self.snapshotters.get(name)
        if backend is None:
            known = ", ".join(sorted(self.snapshotters)) or "none"
            raise NotFound(f"snapshotter {name!r} does not exist: there are {known}")
        return NamespacedSnapshotter(scope, name, backend, share=self._policy is SharingPolicy.SHARED)

    def on_mutation(self, callback: MutationCallback) -> None:
        """Call `callback(removed)` after each committed change, in the thread of who made it; it must not wait."""
        self.shared.mutations.append(callback)

    def set_collector(self, collect: Callable[[], object]) -> None:
        """Whom a synchronous lease deletion asks to collect garbage."""
        self.shared.collectors[:] = [collect]

    def close(self) -> None:
        """Close the database after the writes under way."""
        self.shared.database.close()

    def _recover(self) -> None:
        def work(connection: Connection) -> list[tuple[str, str]]:
            return [(row.namespace, row.snapshotter) for row in connection.execute(_committing)]

        for namespace, snapshotter in self.shared.database.read(work):
            if snapshotter in self.snapshotters:
                self.snapshotter_of(Scope(self.shared, namespace), snapshotter).recover()
        finish_commits(self.shared.database, self.backend)


class View:
    """One namespace's world, under a lease or none. Cheap to make; thread-safe."""

    def __init__(self, metadata: Metadata, scope: Scope) -> None:
        self._metadata = metadata
        self._scope = scope

    @property
    def namespace(self) -> str:
        return self._scope.namespace

    @property
    def lease(self) -> str:
        return self._scope.lease

    @property
    def content(self) -> Content:
        return self._metadata.content_of(self._scope)

    @property
    def images(self) -> Images:
        return Images(self._scope)

    @property
    def containers(self) -> Containers:
        return Containers(self._scope)

    @property
    def leases(self) -> Leases:
        return Leases(self._scope)

    @property
    def sandboxes(self) -> Sandboxes:
        return Sandboxes(self._scope)

    def batch(self) -> AbstractContextManager[None]:
        """`Database.batch`."""
        return self._scope.shared.database.batch()

    def snapshotter(self, name: str = "") -> NamespacedSnapshotter:
        """By plugin id; empty for the default. `NotFound`, with the names there are."""
        return self._metadata.snapshotter_of(self._scope, name)
