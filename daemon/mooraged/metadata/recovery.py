"""Blobs whose commit a crash cut off: in the backend already, and in the database an ingest still."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select, update

from moorage_api.content import ContentStore, Info
from moorage_api.errors import NotFound
from mooraged.metadata import resources, schema
from mooraged.metadata.database import Database
from mooraged.metadata.rows import AnyRow

_log = logging.getLogger(__name__)

_ingests, _blobs, _held = schema.ingests, schema.blobs, schema.lease_resources
_announced = select(_ingests).where(
    _ingests.c.expected != "", _ingests.c.shared == "", ~exists().where(_blobs.c.digest == _ingests.c.expected)
)


def finish_commits(database: Database, backend: ContentStore) -> None:
    """Make blobs of ingests whose bytes have become one, so that they need not be fetched again. Called once, before
    any client and any collection.

    Only where the blob can be nobody else's: no namespace has it, and one ingest alone was to become it.
    """
    rows = database.read(lambda connection: connection.execute(_announced).all())
    wanted = Counter(row.expected for row in rows)
    done = [(row, info) for row in rows if wanted[row.expected] == 1 and (info := _committed(backend, row))]
    if done:
        database.write(lambda connection: _finish(connection, done))
        for row, _ in done:
            _log.info("content %s of namespace %s was committed when the daemon ended", row.expected, row.namespace)


def _committed(backend: ContentStore, row: AnyRow) -> Info | None:
    """The blob that the ingest has become; None where it is an ingest still, or nothing."""
    try:
        backend.status(row.backend_ref)
    except NotFound:
        pass
    else:
        return None
    try:
        return backend.info(row.expected)
    except NotFound:
        return None


def _finish(connection: Connection, done: Sequence[tuple[AnyRow, Info]]) -> None:
    """As the commit would have: the ingest's row becomes the blob's, and leases that held the one hold the other."""
    now = time.time_ns()
    for row, info in done:
        this = (_ingests.c.namespace == row.namespace, _ingests.c.ref == row.ref)
        connection.execute(delete(_ingests).where(*this))
        values = {"namespace": row.namespace, "digest": info.digest, "size": info.size, "labels": {}}
        connection.execute(insert(_blobs), {**values, "created_at": now, "updated_at": now})
        held = (_held.c.namespace == row.namespace, _held.c.type == resources.INGESTS, _held.c.id == row.ref)
        connection.execute(update(_held).where(*held).values(type=resources.CONTENT, id=info.digest))
