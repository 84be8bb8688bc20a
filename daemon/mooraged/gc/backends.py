"""Removing from the backends what the database knows of in no namespace.

An object is removed under a claim on its key, and only if the database still does not know it then: whoever is making
one uses its key until the database does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, bindparam, exists, or_, select

from moorage_api.content import ContentStore
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, ResourceExhausted, Unavailable
from moorage_api.snapshots import Snapshotter
from mooraged.metadata import schema
from mooraged.metadata.scope import Shared

_log = logging.getLogger(__name__)

_digests = select(schema.blobs.c.digest).union(select(schema.ingests.c.shared))
_digest_known = select(
    or_(
        exists().where(schema.blobs.c.digest == bindparam("key")),
        exists().where(schema.ingests.c.shared == bindparam("key")),
    )
)
_refs = select(schema.ingests.c.backend_ref)
_ref_known = select(exists().where(schema.ingests.c.backend_ref == bindparam("key")))
_keys = select(schema.snapshots.c.backend_key, schema.snapshots.c.commit_key).where(
    schema.snapshots.c.snapshotter == bindparam("snapshotter")
)
_key_known = select(
    exists().where(
        schema.snapshots.c.snapshotter == bindparam("snapshotter"),
        or_(schema.snapshots.c.backend_key == bindparam("key"), schema.snapshots.c.commit_key == bindparam("key")),
    )
)


class BackendSweep:
    """Sweeps one backend at a time. One object that cannot be removed does not keep the others."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.failed = False
        """True once anything could not be removed; it is tried again when that backend is swept next."""

    def blobs(self, content: ContentStore) -> tuple[int, int]:
        """Remove blobs that no namespace has; returns how many, and their bytes."""
        known = self._shared.database.read(lambda connection: set(connection.execute(_digests).scalars()))
        removed = size = 0
        for info in content.walk():
            if info.digest not in known and self._remove(info.digest, _digest_known, {}, content.delete):
                removed += 1
                size += info.size
        return removed, size

    def ingests(self, content: ContentStore) -> int:
        """Abort ingests that no namespace has; returns how many."""
        known = self._shared.database.read(lambda connection: set(connection.execute(_refs).scalars()))
        refs = [status.ref for status in content.statuses() if status.ref not in known]
        return sum(self._remove(ref, _ref_known, {}, content.abort) for ref in refs)

    def snapshots(self, name: str, snapshotter: Snapshotter) -> int:
        """Remove snapshots that no namespace has, children before parents; returns how many."""

        def work(connection: Connection) -> set[str]:
            return {key for row in connection.execute(_keys, {"snapshotter": name}) for key in row}

        known = self._shared.database.read(work)
        parents = {info.name: info.parent for info in snapshotter.walk()}
        garbage = _children_first({key: parent for key, parent in parents.items() if key not in known})
        here = {"snapshotter": name}
        removed = sum(self._remove(key, _key_known, here, snapshotter.remove) for key in garbage)
        snapshotter.cleanup()
        return removed

    def _remove(self, key: str, known: Any, parameters: dict[str, str], remove: Callable[[str], None]) -> bool:
        with self._shared.gate.claim(key) as claimed:
            if not claimed:
                self.failed = True
                return False
            if self._is_known(known, {**parameters, "key": key}):
                return False
            try:
                self._with_room(remove, key)
            except NotFound:
                return False
            except (FailedPrecondition, Unavailable) as error:
                # In use after all: by a child that the database does not know yet, or an open writer.
                _log.debug("garbage collection leaves %s for now: %s", key, error)
            except MoorageError:
                _log.exception("garbage collection cannot remove %s", key)
            else:
                _log.debug("garbage collection removed %s", key)
                return True
        self.failed = True
        return False

    def _with_room(self, remove: Callable[[str], None], key: str) -> None:
        """Remove the object, on a full disk with the room that is kept for that: a backend has records to write, too."""
        try:
            remove(key)
        except ResourceExhausted:
            if not self._shared.database.reserve.release():
                raise
            remove(key)

    def _is_known(self, known: Any, parameters: dict[str, str]) -> bool:
        return bool(self._shared.database.read(lambda connection: connection.execute(known, parameters).scalar_one()))


def _children_first(parents: dict[str, str]) -> list[str]:
    """The keys so that each comes before its parent."""
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        chain = []
        while key in parents and key not in depths:
            chain.append(key)
            key = parents[key]
        below = depths.get(key, 0)
        for link in reversed(chain):
            below += 1
            depths[link] = below
        return below

    return sorted(parents, key=depth, reverse=True)
