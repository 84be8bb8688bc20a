"""Snapshots of a namespace, over a snapshotter that knows of none.

Names are the client's, backend keys ours (`<namespace>/<number>/<name>`); kinds, parents, labels and times are kept in
the database, so that `stat` and `walk` ask no backend. Of the labels, the backend gets those meant for it:
`containerd.io/snapshot.ref` and `containerd.io/snapshot/…`.

Unpacked layers and namespaces. A committed snapshot is named by its chain ID only by convention: nothing proves that
its files are those of the chain ID, because any client may prepare, write what it likes and commit under any name. To
hand the snapshot of one namespace to another that names the same chain ID would therefore do two wrongs: it tells the
second that the first has the image, and it lets the first choose the files that the second runs. So under the sharing
policy `isolated` a namespace's layers are its own. Under `shared`, whose operator has said that all namespaces trust
each other, `prepare` with a `containerd.io/snapshot.ref` that another namespace has committed, on the same parent in
the backend, takes that snapshot over and answers `AlreadyExists`, which tells an unpacker to skip the layer; the files
exist once, until the last namespace has removed them. A remote snapshotter that itself answers `AlreadyExists` is
believed under either policy: it has asked the registry with this client's credentials.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from moorage_api import adaptors
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MoorageError, NotFound, Unimplemented
from moorage_api.fieldpaths import update_labels, without_empty
from moorage_api.filters import parse
from moorage_api.mounts import Mount
from moorage_api.rpc import Encoded
from moorage_api.snapshots import Info, Kind, Snapshotter, Usage, is_prompt, rebases
from moorage_api.types import Labels
from moorage_api.wire import events_types_pb2 as events
from mooraged.metadata import resources, snapshot_list
from mooraged.metadata import snapshot_rows as rows
from mooraged.metadata.naming import renaming
from mooraged.metadata.scope import Scope
from mooraged.metadata.snapshot_cache import Place

_log = logging.getLogger(__name__)

TARGET_LABEL = "containerd.io/snapshot.ref"
_INHERITED_PREFIX = "containerd.io/snapshot/"


class NamespacedSnapshotter:
    """`moorage_api.snapshots.Snapshotter` for one namespace."""

    def __init__(self, scope: Scope, name: str, backend: Snapshotter, *, share: bool) -> None:
        self._scope = scope
        self._name = name
        self._backend = backend
        self._share = share
        self._here = {"at_namespace": scope.namespace, "at_snapshotter": name}

    @property
    def name(self) -> str:
        """The snapshotter's name, as clients know it."""
        return self._name

    @property
    def rebases(self) -> bool:
        """Whether the backend does."""
        return rebases(self._backend)

    @property
    def prompt(self) -> bool:
        """Whether the backend is; what comes from the database here is one row."""
        return is_prompt(self._backend)

    def stat(self, key: str) -> Info:
        return _info(self._row(key))

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        what = f"snapshot {info.name!r}"
        row = self._row(info.name)
        labels = update_labels(row.labels, info.labels, fieldpaths, what)
        if inherited(labels) != inherited(row.labels):
            # The backend first: what it knows of labels is advice, the database is what counts.
            with renaming({row.backend_key: info.name}):
                self._backend.update(Info(row.backend_key, Kind(row.kind), labels=inherited(labels)))

        def work(connection: Connection) -> Info:
            current = self._get(connection, info.name)
            if current is None:
                raise self._missing(info.name)
            merged = update_labels(current.labels, info.labels, fieldpaths, what)
            now = time.time_ns()
            rows.SET_LABELS.run(connection, {**self._here, "at_name": info.name, "labels": merged, "updated_at": now})
            return Info(info.name, Kind(current.kind), current.parent, merged, current.created_at, now)

        with self._changing(info.name):
            return self._scope.remove(work)

    def usage(self, key: str) -> Usage:
        row = self._row(key)
        with renaming({row.backend_key: key}):
            return self._backend.usage(row.backend_key)

    def mounts(self, key: str) -> list[Mount]:
        row = self._row(key)
        if row.kind == Kind.COMMITTED.value:
            raise FailedPrecondition(f"snapshot {key!r} is committed: mount a view of it")
        with renaming({row.backend_key: key}):
            return self._backend.mounts(row.backend_key)

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        mounts = self._create(Kind.ACTIVE, key, parent, without_empty(labels or {}))
        event = events.SnapshotPrepare(key=key, parent=parent, snapshotter=self._name)
        self._scope.publish("/snapshot/prepare", event)
        return mounts

    def view(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        return self._create(Kind.VIEW, key, parent, without_empty(labels or {}))

    def _create(self, kind: Kind, key: str, parent: str, labels: dict[str, str]) -> list[Mount]:
        """Make the snapshot in the backend, then in the database; the backend's is removed when the latter fails."""
        if not key:
            raise InvalidArgument("the key of a snapshot must not be empty")
        target = labels.get(TARGET_LABEL, "")
        taken, backend_parent = self._scope.read(lambda connection: self._check_new(connection, key, parent, target))
        if taken:
            self._hold_existing(taken)
            raise self._exists(taken)
        if target and self._share and self._take_over(target, parent, backend_parent):
            raise self._exists(target)
        backend_key = self._scope.shared.backend_key(self._scope.namespace, key)
        # In use until the database knows it, so that the collector does not take it for an orphan.
        with self._scope.shared.gate.using(backend_key), renaming({backend_key: key, backend_parent: parent}):
            make = self._backend.prepare if kind is Kind.ACTIVE else self._backend.view
            try:
                mounts = make(backend_key, backend_parent, inherited(labels))
            except AlreadyExists:
                if not target:
                    raise
                self._take_over_remote(target, parent, backend_parent, labels)
                raise self._exists(target) from None
            try:
                self._insert(kind, key, parent, backend_key, backend_parent, labels)
            except BaseException:
                self._discard(backend_key)
                raise
        return mounts

    def _check_new(self, connection: Connection, key: str, parent: str, target: str) -> tuple[str, str]:
        """The name that is taken already (the target, then the key) or an empty one, and the backend key of `parent`.

        `NotFound` and `InvalidArgument` for a parent that cannot be one.
        """
        for name in filter(None, (target, key)):
            if rows.is_taken(connection, {**self._here, "at_target": name}):
                return name, ""
        return "", self._parent_key(connection, parent)

    def _parent_key(self, connection: Connection, parent: str) -> str:
        if not parent:
            return ""
        row = self._get(connection, parent)
        if row is None:
            raise NotFound(f"parent snapshot {parent!r} does not exist in {self._place()}")
        if row.kind != Kind.COMMITTED.value:
            raise InvalidArgument(f"parent snapshot {parent!r} in {self._place()} is not committed")
        return str(row.backend_key)

    def _hold_existing(self, name: str) -> None:
        """What the client wanted to make and finds made is as good as made by it: the bound lease holds it."""
        if self._scope.lease:
            self._scope.write(lambda connection: self._hold(connection, name))

    def _hold(self, connection: Connection, name: str) -> None:
        self._scope.hold(connection, resources.SNAPSHOTS + self._name, name)

    def _insert(
        self, kind: Kind, name: str, parent: str, backend_key: str, backend_parent: str, labels: Mapping[str, str]
    ) -> None:
        now, version = time.time_ns(), self._scope.shared.snapshots.version
        values: dict[str, Any] = {
            "namespace": self._scope.namespace,
            "snapshotter": self._name,
            "name": name,
            "backend_key": backend_key,
            "kind": kind.value,
            "parent": parent,
            "labels": labels,
            "created_at": now,
            "updated_at": now,
        }

        def work(connection: Connection) -> None:
            # Again, because the parent may have been removed, and the name taken, while the backend worked.
            if self._parent_key(connection, parent) != backend_parent:
                raise FailedPrecondition(f"parent snapshot {parent!r} in {self._place()} was replaced meanwhile")
            if rows.is_taken(connection, {**self._here, "at_target": name}):
                raise self._exists(name)
            rows.INSERT.run(connection, values)
            self._hold(connection, name)

        # The record of a snapshot with nothing in it comes to disk with the next change that is synced, that of the
        # container for one. Until then a power cut leaves a snapshot in the backend that nobody knows, and the collector
        # finds.
        self._scope.write(work, durable=kind is Kind.COMMITTED)
        row = rows.SnapshotRow(**values, commit_name="", commit_key="", commit_labels={})
        self._scope.shared.snapshots.keep(self._where(name), row, version)

    def _discard(self, backend_key: str) -> None:
        """Remove what was made for nothing; where that fails, the collector finds it."""
        try:
            self._backend.remove(backend_key)
        except MoorageError:
            self._scope.shared.dirty.add(dirty_name(self._name))
            _log.exception("snapshot %s of %s is left to garbage collection", backend_key, self._name)

    def _take_over(self, target: str, parent: str, backend_parent: str) -> bool:
        """Under the policy `shared`: make another namespace's committed `target` this one's too, if there is one."""
        found = self._scope.read(lambda connection: rows.committed_elsewhere(connection, self._name, target))
        for row in found:
            with self._scope.shared.gate.using(row.backend_key):
                if self._backend_parent(row.backend_key) != backend_parent:
                    continue
                self._insert(Kind.COMMITTED, target, parent, row.backend_key, backend_parent, row.labels)
            return True
        return False

    def _backend_parent(self, backend_key: str) -> str | None:
        try:
            return self._backend.stat(backend_key).parent
        except NotFound:
            return None

    def _take_over_remote(self, target: str, parent: str, backend_parent: str, labels: dict[str, str]) -> None:
        """Record the committed snapshot that a remote snapshotter says it has for `target`."""
        for info in self._backend.walk([f'labels."{TARGET_LABEL}"=="{_escaped(target)}"']):
            if (
                info.kind is Kind.COMMITTED
                and info.labels.get(TARGET_LABEL) == target
                and info.parent == backend_parent
            ):
                with self._scope.shared.gate.using(info.name):
                    self._insert(Kind.COMMITTED, target, parent, info.name, backend_parent, {**info.labels, **labels})
                return
        raise NotFound(f"snapshotter {self._name!r} says that it has {target!r}, but shows no such snapshot")

    def commit(self, name: str, key: str, labels: Labels | None = None, *, parent: str = "") -> None:
        """In three steps: the intent in the database, the commit in the backend, the result in the database.

        A crash between the last two is mended at the next start (`recover`): the backend is asked how it ended. So the
        last need not be synced: once the first two are, nothing of the commit can be lost.
        """
        if not name:
            raise InvalidArgument("the name of a snapshot must not be empty")
        if parent and "parent" not in inspect.signature(self._backend.commit).parameters:
            raise Unimplemented(f"snapshotter {self._name!r} cannot commit onto a parent: it has no capability rebase")
        kept = without_empty(labels or {})
        backend_name = self._scope.shared.backend_key(self._scope.namespace, name)
        with self._scope.shared.gate.using(backend_name):
            active, backend_parent = self._intend(name, key, backend_name, kept, parent)
            names = {backend_name: name, active.backend_key: key, backend_parent: parent}
            onto = {"parent": backend_parent} if backend_parent else {}
            try:
                with renaming(names):
                    self._backend.commit(backend_name, active.backend_key, inherited(kept), **onto)
            except BaseException:
                self._settle(key, backend_name)
                raise
            with self._changing(key, name):
                self._scope.change(
                    lambda connection: self._finish(connection, name, key, backend_name, kept), durable=False
                )
        event = events.SnapshotCommit(key=key, name=name, snapshotter=self._name)
        self._scope.publish("/snapshot/commit", event)

    def _intend(
        self, name: str, key: str, backend_name: str, labels: dict[str, str], parent: str
    ) -> tuple[rows.SnapshotRow, str]:
        """Write the intent down, with the parent if it gets one, which nobody may remove from then on.

        Returns the row, and the backend's key of that parent.
        """

        place = {**self._here, "at_name": key}
        intent = {"at_target": name, "commit_name": name, "commit_key": backend_name, "commit_labels": labels}

        def work(connection: Connection) -> tuple[rows.SnapshotRow, str]:
            row = rows.INTEND.first(connection, {**place, **intent})
            if row is None:
                return self._why_not(connection, key), ""
            if parent and row.parent not in ("", parent):
                raise InvalidArgument(f"snapshot {key!r} stands on {row.parent!r}, not on {parent!r}")
            backend_parent = self._parent_key(connection, parent)
            # Now, for the result may be found out by a start that knows no lease.
            self._hold(connection, name)
            self._set_parent(connection, row, parent or row.parent)
            return row._replace(parent=parent or row.parent), backend_parent

        with self._changing(key):
            row, backend_parent = self._scope.change(work)
        if row.commit_key != backend_name:
            self._hold_existing(name)
            raise self._exists(name)
        return row, backend_parent

    def _why_not(self, connection: Connection, key: str) -> rows.SnapshotRow:
        """Raises why the snapshot cannot be committed; its row where it could be, under another name."""
        row = self._get(connection, key)
        if row is None:
            raise self._missing(key)
        if row.kind != Kind.ACTIVE.value:
            raise FailedPrecondition(f"snapshot {key!r} in {self._place()} is not active")
        if row.commit_name:
            raise FailedPrecondition(f"snapshot {key!r} in {self._place()} is being committed already")
        return row

    def _set_parent(self, connection: Connection, row: rows.SnapshotRow, parent: str) -> None:
        # By itself, for most have theirs: to set a column is to write its index, whatever was there.
        if parent != row.parent:
            rows.SET_PARENT.run(connection, {**self._here, "at_name": row.name, "parent": parent})

    def _finish(
        self, connection: Connection, name: str, key: str, backend_name: str, labels: Mapping[str, str]
    ) -> None:
        now = time.time_ns()
        rows.FINISH.run(
            connection,
            {
                **self._here,
                "at_name": key,
                "name": name,
                "backend_key": backend_name,
                "labels": labels,
                "created_at": now,
                "updated_at": now,
            },
        )
        self._scope.release(connection, resources.SNAPSHOTS + self._name, key)

    def _settle(self, key: str, backend_name: str) -> None:
        """After a commit that failed or was cut off: forget the intent, or carry it out if the backend has done so."""
        row = self._row(key)
        parent = row.parent
        try:
            done = self._is_committed(backend_name)
            if not done and parent and not self._backend_parent(row.backend_key):
                # It was to be committed onto a parent, and stands on nothing still.
                parent = ""
        except MoorageError:
            _log.exception("commit of snapshot %r in %s is left open until the next start", key, self._place())
            return

        def work(connection: Connection) -> None:
            if done:
                self._finish(connection, row.commit_name, key, backend_name, row.commit_labels)
            else:
                self._scope.release(connection, resources.SNAPSHOTS + self._name, row.commit_name)
                rows.FORGET_INTENT.run(connection, {**self._here, "at_name": key})
                self._set_parent(connection, row, parent)

        with self._changing(key, row.commit_name):
            self._scope.write(work)

    def _is_committed(self, backend_name: str) -> bool:
        try:
            return self._backend.stat(backend_name).kind is Kind.COMMITTED
        except NotFound:
            return False

    def recover(self) -> None:
        """Settle the commits of this namespace that a crash cut off. Called once, before any client."""
        for row in self._scope.read(lambda connection: rows.COMMITTING.all(connection, self._here)):
            self._settle(row.name, row.commit_key)

    def remove(self, key: str) -> None:
        """The namespace no longer has the snapshot; its files go with the next collection."""

        def work(connection: Connection) -> None:
            commit_name = rows.COMMIT_NAME.first(connection, {**self._here, "at_name": key})
            if commit_name is None:
                raise self._missing(key)
            if commit_name:
                raise FailedPrecondition(f"snapshot {key!r} in {self._place()} is being committed")
            child = rows.CHILD.first(connection, {**self._here, "at_name": key})
            if child is not None:
                raise FailedPrecondition(f"cannot remove snapshot {key!r} in {self._place()}: {child!r} stands on it")
            rows.DELETE.run(connection, {**self._here, "at_name": key})
            self._scope.release(connection, resources.SNAPSHOTS + self._name, key)

        with self._changing(key):
            self._scope.remove(work, dirty_name(self._name))
        self._scope.publish("/snapshot/remove", events.SnapshotRemove(key=key, snapshotter=self._name))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        accepted = parse(filters)
        infos = self._scope.read(lambda connection: rows.LISTED.all(connection, self._here))
        if accepted.everything:
            return iter(infos)
        return (info for info in infos if accepted.matches(adaptors.snapshot_info(info)))

    def listed(self) -> Iterator[Encoded]:
        """What `walk` gives, as the messages of a list."""
        found = self._scope.read(lambda connection: rows.LISTED.run(connection, self._here).fetchall())
        return snapshot_list.encoded(found)

    def cleanup(self) -> None:
        self._backend.cleanup()

    def close(self) -> None:
        """Nothing: the backend is every namespace's, and closed by who opened it."""

    def _get(self, connection: Connection, name: str) -> rows.SnapshotRow | None:
        return rows.GET.first(connection, {**self._here, "at_name": name})

    def _row(self, key: str) -> rows.SnapshotRow:
        cache, place = self._scope.shared.snapshots, self._where(key)
        row = cache.get(place)
        if row is None:
            version = cache.version
            row = self._scope.read(lambda connection: self._get(connection, key))
            if row is None:
                raise self._missing(key)
            cache.keep(place, row, version)
        return row

    @contextmanager
    def _changing(self, *names: str) -> Iterator[None]:
        """The rows of these names may change in the block, also where that fails."""
        try:
            yield
        finally:
            self._scope.shared.snapshots.forget(*map(self._where, names))

    def _where(self, name: str) -> Place:
        return self._scope.namespace, self._name, name

    def _place(self) -> str:
        return f"namespace {self._scope.namespace!r}, snapshotter {self._name!r}"

    def _missing(self, key: str) -> MoorageError:
        return NotFound(f"snapshot {key!r} does not exist in {self._place()}")

    def _exists(self, name: str) -> MoorageError:
        return AlreadyExists(f"snapshot {name!r} already exists in {self._place()}")


def dirty_name(snapshotter: str) -> str:
    """The snapshotter's name among the backends that may hold garbage."""
    return resources.SNAPSHOTS + snapshotter


def inherited(labels: Labels) -> dict[str, str]:
    """The labels that a backend gets to see."""
    return {key: value for key, value in labels.items() if key == TARGET_LABEL or key.startswith(_INHERITED_PREFIX)}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _info(row: rows.SnapshotRow) -> Info:
    return Info(row.name, Kind(row.kind), row.parent, row.labels, row.created_at, row.updated_at)
