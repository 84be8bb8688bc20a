"""Locks by name, for stores whose calls concern a few names each."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class NameLocks:
    """Locks by name: exclusive for names that change, shared for those that must stay as they are meanwhile.

    All the names of a call are taken at once or waited for together, so that two calls cannot wait for each other.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._exclusive: set[str] = set()
        self._shared: dict[str, int] = {}

    @contextmanager
    def locked(self, exclusive: Sequence[str], shared: Sequence[str] = ()) -> Iterator[None]:
        """Hold these names for the time of the block; waits while others hold any of them otherwise than shared."""
        mine = frozenset(exclusive)
        kept = frozenset(shared) - mine
        with self._changed:
            while not self._are_free(mine, kept):
                self._changed.wait()
            self._exclusive |= mine
            for name in kept:
                self._shared[name] = self._shared.get(name, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._exclusive -= mine
                for name in kept:
                    left = self._shared.pop(name) - 1
                    if left:
                        self._shared[name] = left
                self._changed.notify_all()

    def _are_free(self, exclusive: frozenset[str], shared: frozenset[str]) -> bool:
        return (
            self._exclusive.isdisjoint(exclusive)
            and self._exclusive.isdisjoint(shared)
            and self._shared.keys().isdisjoint(exclusive)
        )
