"""Removing from the backends what the database knows of in no namespace.

An object is removed under a claim on its key, and only if the database still does not know it then: whoever is making
one uses its key until the database does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from sqlalchemy import BindParameter, Connection, bindparam, select, text, union_all

from moorage_api.content import ContentStore
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, ResourceExhausted, Unavailable
from moorage_api.snapshots import RemovesMany, Snapshotter
from mooraged.metadata import schema
from mooraged.metadata.scope import Shared
from mooraged.metadata.statements import Query

_log = logging.getLogger(__name__)

_TOGETHER = 64
"""Snapshots that are removed by one write to disk; so many keys are claimed for that time."""

_key: BindParameter[str] = bindparam("key")
_blobs, _ingests, _snapshots = schema.blobs.c, schema.ingests.c, schema.snapshots.c
_digests = Query(select(_blobs.digest).union(select(_ingests.shared)), str)
_refs = Query(select(_ingests.backend_ref), str)
_keys = Query(
    select(_snapshots.backend_key, _snapshots.commit_key).where(_snapshots.snapshotter == bindparam("snapshotter")),
    lambda *keys: keys,
)
_digest_known = Query(
    union_all(
        select(_blobs.digest).where(_blobs.digest == _key), select(_ingests.shared).where(_ingests.shared == _key)
    ),
    str,
)
_ref_known = Query(select(_ingests.backend_ref).where(_ingests.backend_ref == _key), str)
# Of a commit under way whoever's it is: a condition on the snapshotter would have all of that one's rows looked through,
# while the index of commits has those alone.
_key_known = Query(
    union_all(
        select(_snapshots.name).where(
            _snapshots.snapshotter == bindparam("snapshotter"), _snapshots.backend_key == _key
        ),
        select(_snapshots.name).where(_snapshots.commit_key == _key, text("commit_name != ''")),
    ),
    str,
)


class BackendSweep:
    """Sweeps one backend at a time. One object that cannot be removed does not keep the others."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.failed = False
        """True once anything could not be removed; it is tried again when that backend is swept next."""

    def blobs(self, content: ContentStore) -> tuple[int, int]:
        """Remove blobs that no namespace has; returns how many, and their bytes."""
        known = self._shared.database.read(lambda connection: set(_digests.all(connection, {})))
        removed = size = 0
        for info in content.walk():
            if info.digest not in known and self._remove(info.digest, self._is_digest_known, content.delete):
                removed += 1
                size += info.size
        return removed, size

    def ingests(self, content: ContentStore) -> int:
        """Abort ingests that no namespace has; returns how many."""
        known = self._shared.database.read(lambda connection: set(_refs.all(connection, {})))
        refs = [status.ref for status in content.statuses() if status.ref not in known]
        return sum(self._remove(ref, self._is_ref_known, content.abort) for ref in refs)

    def snapshots(self, name: str, snapshotter: Snapshotter) -> int:
        """Remove snapshots that no namespace has, children before parents; returns how many."""

        def work(connection: Connection) -> set[str]:
            return {key for keys in _keys.all(connection, {"snapshotter": name}) for key in keys}

        known = self._shared.database.read(work)
        parents = {info.name: info.parent for info in snapshotter.walk()}
        garbage = _children_first({key: parent for key, parent in parents.items() if key not in known})
        is_known = partial(self._is_key_known, name)
        gone = self._remove_together(garbage, is_known, snapshotter) if isinstance(snapshotter, RemovesMany) else set()
        # What is left is in use, or broken: which it is, and why, each shows by itself.
        removed = sum(self._remove(key, is_known, snapshotter.remove) for key in garbage if key not in gone)
        snapshotter.cleanup()
        return len(gone) + removed

    def _remove_together(
        self, garbage: Sequence[str], is_known: Callable[[str], bool], snapshotter: RemovesMany
    ) -> set[str]:
        """Remove what can be; returns what is gone."""
        gone: set[str] = set()
        for start in range(0, len(garbage), _TOGETHER):
            with ExitStack() as claims:
                keys = garbage[start : start + _TOGETHER]
                claimed = [key for key in keys if claims.enter_context(self._shared.gate.claim(key))]
                try:
                    gone.update(snapshotter.remove_all([key for key in claimed if not is_known(key)]))
                except MoorageError as error:
                    _log.debug("garbage collection removes %d snapshots one by one: %s", len(keys), error)
        return gone

    def _remove(self, key: str, is_known: Callable[[str], bool], remove: Callable[[str], None]) -> bool:
        with self._shared.gate.claim(key) as claimed:
            if not claimed:
                self.failed = True
                return False
            if is_known(key):
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

    def _is_digest_known(self, digest: str) -> bool:
        return self._finds(_digest_known, {"key": digest})

    def _is_ref_known(self, ref: str) -> bool:
        return self._finds(_ref_known, {"key": ref})

    def _is_key_known(self, snapshotter: str, key: str) -> bool:
        return self._finds(_key_known, {"snapshotter": snapshotter, "key": key})

    def _finds(self, query: Query[str], values: dict[str, str]) -> bool:
        return self._shared.database.read(lambda connection: query.first(connection, values)) is not None


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
