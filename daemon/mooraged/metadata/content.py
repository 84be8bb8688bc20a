"""Content of a namespace, over a backend that knows of none.

A namespace sees the blobs that were committed in it. On disk a blob exists once, whoever committed it. Whether a
namespace may have a blob without sending it, because another one has it already, is the sharing policy's to say:

- `isolated`: no. Every byte is written, and nothing that a client sees differs from a blob that nobody has;
- `shared`: yes, by naming its digest.

A namespace labelled `containerd.io/namespace.shareable=true` shares what it has under either policy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum

from sqlalchemy import Connection, bindparam, select, update

from moorage_api import adaptors
from moorage_api.content import BlobReader, ContentStore, Info, IngestStatus, Writer
from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound, Unavailable
from moorage_api.fieldpaths import update_labels, without_empty
from moorage_api.filters import parse
from moorage_api.types import Labels, check_digest
from moorage_api.wire import events_types_pb2 as events
from mooraged.metadata import resources, schema
from mooraged.metadata.naming import renaming
from mooraged.metadata.rows import AnyRow, Rows
from mooraged.metadata.scope import Scope
from mooraged.metadata.writers import BackendWriter, NamespacedWriter, SharedWriter

_log = logging.getLogger(__name__)

DIRTY = "content"
"""The backend's name among those that may hold garbage."""

_UNLEASED_SECONDS = 24 * 60 * 60
_SHAREABLE = "containerd.io/namespace.shareable"

_blobs = Rows(schema.blobs, "digest")
_ingests = Rows(schema.ingests, "ref")
_owners = (
    select(schema.namespaces.c.labels)
    .join(schema.blobs, schema.blobs.c.namespace == schema.namespaces.c.name)
    .where(schema.blobs.c.digest == bindparam("at_digest"))
)
_renew_ingest = (
    update(schema.ingests)
    .where(
        schema.ingests.c.namespace == bindparam("at_namespace"),
        schema.ingests.c.ref == bindparam("at_ref"),
        schema.ingests.c.backend_ref == bindparam("at_backend_ref"),
    )
    .values(expires_at=bindparam("renewed"), shared=bindparam("sharing"), expected=bindparam("wanted"))
)


class SharingPolicy(StrEnum):
    """What a namespace may have without sending it."""

    ISOLATED = "isolated"
    SHARED = "shared"


class Content:
    """`moorage_api.content.ContentStore` for one namespace."""

    def __init__(self, scope: Scope, backend: ContentStore, policy: SharingPolicy) -> None:
        self._scope = scope
        self._backend = backend
        self._policy = policy

    @property
    def namespace(self) -> str:
        return self._scope.namespace

    @property
    def lease(self) -> str:
        return self._scope.lease

    # Blobs

    def info(self, digest: str) -> Info:
        return _info(self._blob(digest))

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        check_digest(info.digest)

        def work(connection: Connection) -> Info:
            row = _blobs.get(connection, self._scope.namespace, info.digest)
            if row is None:
                raise self._missing(info.digest)
            labels = update_labels(row.labels, info.labels, fieldpaths, f"content {info.digest}")
            now = time.time_ns()
            values = {"labels": labels, "updated_at": now}
            _blobs.update(connection, self._scope.namespace, info.digest, values)
            return replace(_info(row), labels=labels, updated_at=now)

        return self._scope.remove(work)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: _blobs.all(connection, self._scope.namespace))
        return (info for info in map(_info, rows) if accepted.matches(adaptors.content_info(info)))

    def delete(self, digest: str) -> None:
        """The namespace no longer has the blob; its bytes go with the next collection, unless another one has it."""
        check_digest(digest)

        def work(connection: Connection) -> None:
            if not _blobs.delete(connection, self._scope.namespace, digest):
                raise self._missing(digest)
            self._scope.release(connection, resources.CONTENT, digest)

        self._scope.remove(work, DIRTY)
        self._scope.publish("/content/delete", events.ContentDelete(digest=digest))

    def open(self, digest: str) -> BlobReader:
        self._blob(digest)
        return self._backend.open(digest)

    def _blob(self, digest: str) -> AnyRow:
        check_digest(digest)
        row = self._scope.read(lambda connection: _blobs.get(connection, self._scope.namespace, digest))
        if row is None:
            raise self._missing(digest)
        return row

    # Ingests

    def status(self, ref: str) -> IngestStatus:
        row = self._scope.read(lambda connection: _ingests.get(connection, self._scope.namespace, ref))
        status = self._status(row) if row is not None else None
        if status is None:
            raise self._no_ingest(ref)
        return status

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        accepted = parse(filters)
        rows = self._scope.read(lambda connection: _ingests.all(connection, self._scope.namespace))
        found = (self._status(row) for row in rows)
        return [status for status in found if status and accepted.matches(adaptors.ingest_status(status))]

    def _status(self, row: AnyRow) -> IngestStatus | None:
        """The ingest of a row; None where a crash left the row only."""
        try:
            status = self._backend.status(row.backend_ref)
        except NotFound:
            if not row.shared:
                return None
            size = self._backend.info(row.shared).size
            return IngestStatus(row.ref, size, size, row.expected, row.created_at, row.created_at)
        return replace(status, ref=row.ref, expected=row.expected)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        if not ref:
            raise InvalidArgument("the ref of an ingest must not be empty")
        if total < 0:
            raise InvalidArgument(f"negative total {total} for ingest {ref!r}")
        if expected:
            self._check_new(check_digest(expected))
        row = self._scope.read(lambda connection: _ingests.get(connection, self._scope.namespace, ref))
        if row is not None:
            backend_ref, expected = row.backend_ref, expected or row.expected
        else:
            backend_ref = self._scope.shared.backend_key(self._scope.namespace, ref)
        # In use from before the backend makes the ingest until the writer is closed: never collected meanwhile.
        self._scope.shared.gate.enter(backend_ref)
        try:
            # A blob that is shared is in use until the database knows that this ingest wants it.
            with self._scope.shared.gate.using(expected or backend_ref):
                with renaming({backend_ref: ref}):
                    writer = self._backend_writer(backend_ref, total, expected)
                try:
                    self._save_ingest(ref, backend_ref, expected, writer)
                except BaseException:
                    writer.close()
                    raise
        except BaseException:
            self._scope.shared.gate.leave(backend_ref)
            raise
        return NamespacedWriter(self, writer, ref, backend_ref, expected)

    def _check_new(self, digest: str) -> None:
        """`AlreadyExists` where this namespace has the blob; then the bound lease holds it from now on."""

        def work(connection: Connection) -> bool:
            if _blobs.get(connection, self._scope.namespace, digest) is None:
                return False
            self._scope.hold(connection, resources.CONTENT, digest)
            return True

        if self._scope.write(work) if self._scope.lease else self._scope.read(work):
            raise AlreadyExists(f"content {digest} already exists in namespace {self._scope.namespace!r}")

    def _backend_writer(self, backend_ref: str, total: int, expected: str) -> BackendWriter:
        if expected and self._may_share(expected):
            try:
                size = self._backend.info(expected).size
            except NotFound:
                pass  # nobody has it: it must be written like any other
            else:
                if total in (0, size):
                    return SharedWriter(self._backend, backend_ref, expected, size)
        # Without `expected`: that the backend has the blob is no news for this namespace.
        return self._backend.writer(backend_ref, total)

    def _may_share(self, digest: str) -> bool:
        if self._policy is SharingPolicy.SHARED:
            return True
        owners = self._scope.read(lambda connection: connection.execute(_owners, {"at_digest": digest}).scalars().all())
        return any(labels.get(_SHAREABLE) == "true" for labels in owners)

    def _save_ingest(self, ref: str, backend_ref: str, expected: str, writer: BackendWriter) -> None:
        now = time.time_ns()
        expires = 0 if self._scope.lease else now + _UNLEASED_SECONDS * 1_000_000_000
        sharing = expected if isinstance(writer, SharedWriter) else ""
        values = {"ref": ref, "backend_ref": backend_ref, "expected": expected, "created_at": now}

        def work(connection: Connection) -> None:
            if not _ingests.insert(
                connection,
                {"namespace": self._scope.namespace, **values, "expires_at": expires, "shared": sharing},
            ):
                here = {"at_namespace": self._scope.namespace, "at_ref": ref, "at_backend_ref": backend_ref}
                renewed = {"renewed": expires, "sharing": sharing, "wanted": expected}
                if connection.execute(_renew_ingest, {**here, **renewed}).rowcount == 0:
                    raise Unavailable(f"ingest {ref!r} is open: another writer has just begun it")
            self._scope.hold(connection, resources.INGESTS, ref)

        # Not durable: an ingest whose row a power cut takes is an ingest to begin again, and nothing was promised.
        self._scope.write(work, durable=False)

    def abort(self, ref: str) -> None:
        row = self._scope.read(lambda connection: _ingests.get(connection, self._scope.namespace, ref))
        if row is None:
            raise self._no_ingest(ref)
        try:
            with renaming({row.backend_ref: ref}):
                self._backend.abort(row.backend_ref)
        except NotFound:
            _log.debug("ingest %r of namespace %r has no bytes to remove", ref, self._scope.namespace)

        def work(connection: Connection) -> None:
            _ingests.delete(connection, self._scope.namespace, ref)
            self._scope.release(connection, resources.INGESTS, ref)

        self._scope.remove(work)

    # What the writer needs

    def release_writer(self, backend_ref: str) -> None:
        """The writer is closed: its ingest may be collected."""
        self._scope.shared.gate.leave(backend_ref)

    def commit(self, writer: BackendWriter, ref: str, size: int, expected: str, labels: Labels | None) -> Info:
        """Commit in the backend, then in the database. A blob that only others have is committed like a new one."""
        kept = without_empty(labels or {})
        digest = check_digest(expected) if expected else writer.digest()
        # In use until the database knows it, so that the collector does not take it for an orphan.
        with self._scope.shared.gate.using(digest):
            try:
                info = writer.commit(size, expected)
            except AlreadyExists:
                info = self._backend.info(digest)
            now = time.time_ns()
            info = Info(digest, info.size, now, now, kept)
            if not self._scope.write(lambda connection: self._save_blob(connection, ref, info)):
                raise AlreadyExists(f"content {digest} already exists in namespace {self._scope.namespace!r}")
        self._scope.publish("/content/create", events.ContentCreate(digest=digest, size=info.size))
        return info

    def _save_blob(self, connection: Connection, ref: str, info: Info) -> bool:
        """Turn the ingest's row into a blob's; False where the namespace has the blob already (the lease holds it)."""
        _ingests.delete(connection, self._scope.namespace, ref)
        self._scope.release(connection, resources.INGESTS, ref)
        self._scope.hold(connection, resources.CONTENT, info.digest)
        return _blobs.insert(
            connection,
            {
                "namespace": self._scope.namespace,
                "digest": info.digest,
                "size": info.size,
                "labels": info.labels,
                "created_at": info.created_at,
                "updated_at": info.updated_at,
            },
        )

    def _missing(self, digest: str) -> MoorageError:
        return NotFound(f"content {digest} does not exist in namespace {self._scope.namespace!r}")

    def _no_ingest(self, ref: str) -> MoorageError:
        return NotFound(f"ingest {ref!r} does not exist in namespace {self._scope.namespace!r}")


def _info(row: AnyRow) -> Info:
    return Info(row.digest, row.size, row.created_at, row.updated_at, row.labels)
