"""One fsync for all who wait for one."""

from __future__ import annotations

import threading

from moorage_api.linux.sync import sync_folder


class GroupSync:
    """Syncs one folder; callers that come while a sync is under way share the next one.

    A caller's sync always begins after its call, so that what it renamed before is on disk when `sync` returns.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._count = threading.Lock()
        self._leader = threading.Lock()
        self._asked = 0
        self._done = 0

    def sync(self) -> None:
        """Return when the folder's entries, as they are now, are on disk. `OSError` when the disk says no."""
        with self._count:
            self._asked += 1
            ticket = self._asked
        with self._leader:
            if self._done >= ticket:
                return
            with self._count:
                covered = self._asked
            sync_folder(self._path)
            self._done = covered
