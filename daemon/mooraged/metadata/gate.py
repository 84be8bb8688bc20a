"""Who uses which backend object right now: what keeps the garbage collector off what is being made.

An object in a backend (a blob, an ingest, a snapshot) exists for a moment before the database says so. Whoever makes
one uses its key for that time; the collector claims a key before it removes the object, and gets it only when nobody
uses it. Keys are independent of each other, so a slow commit of one blob holds up nothing but its own collection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CLAIMED = -1


class Gate:
    """Shared use and exclusive claims, by key. Users wait for a claim to end; a claim never waits for users."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users: dict[str, int] = {}

    def enter(self, key: str) -> None:
        """Begin to use `key`; waits while the collector removes the object of that name."""
        with self._changed:
            while self._users.get(key) == _CLAIMED:
                self._changed.wait()
            self._users[key] = self._users.get(key, 0) + 1

    def leave(self, key: str) -> None:
        """End one use of `key`."""
        with self._changed:
            users = self._users[key] - 1
            if users:
                self._users[key] = users
            else:
                del self._users[key]

    @contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Use `key` for the time of the block."""
        self.enter(key)
        try:
            yield
        finally:
            self.leave(key)

    def in_use(self, key: str) -> bool:
        """True while anyone uses or has claimed `key`."""
        with self._changed:
            return key in self._users

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yield True with `key` held exclusively, or False at once where it is in use."""
        with self._changed:
            claimed = key not in self._users
            if claimed:
                self._users[key] = _CLAIMED
        try:
            yield claimed
        finally:
            if claimed:
                with self._changed:
                    del self._users[key]
                    self._changed.notify_all()
