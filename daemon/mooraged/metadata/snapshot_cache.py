"""Rows of snapshots in memory, for calls that only want to look one up."""

from __future__ import annotations

import threading

from mooraged.metadata.snapshot_rows import SnapshotRow

Place = tuple[str, str, str]
"""Namespace, snapshotter, name."""


class SnapshotCache:
    """Rows that were read or made lately: without the database, which costs 45 µs, a call for mounts takes a fifth less.

    Whoever changes or deletes rows forgets them after that, and before anybody is told that it is done. A row is kept only where
    nothing was forgotten since before it was read: it might have been that one. Thread-safe.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._rows: dict[Place, SnapshotRow] = {}
        self._lock = threading.Lock()
        self._version = 0

    @property
    def version(self) -> int:
        """Goes up whenever something is forgotten."""
        return self._version

    def get(self, place: Place) -> SnapshotRow | None:
        """The row, if it is here; not to be changed."""
        return self._rows.get(place)

    def keep(self, place: Place, row: SnapshotRow, version: int) -> None:
        """Keep a row that is as it was at that version, or later."""
        with self._lock:
            if version != self._version:
                return
            if len(self._rows) >= self._size:
                self._rows.clear()
            self._rows[place] = row

    def forget(self, *places: Place) -> None:
        """These have changed, or may have."""
        with self._lock:
            self._version += 1
            for place in places:
                self._rows.pop(place, None)
