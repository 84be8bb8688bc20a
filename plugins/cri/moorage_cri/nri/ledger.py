"""What plugins have been told of each pod and container, so that each end is told once."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """`LIVE` from the moment that it is made; `STOPPED` is told once, and so is the removal."""

    LIVE = auto()
    STOPPED = auto()


class Ledger:
    """By id. What plugins were never told of is not in it."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._states

    def live(self, id: str) -> bool:
        """Whether plugins know of it, and not of its end."""
        return self._states.get(id) is State.LIVE

    def add(self, id: str, *, live: bool = True) -> None:
        """Plugins are told of it."""
        self._states[id] = State.LIVE if live else State.STOPPED

    def stop(self, id: str) -> bool:
        """Whether its end is to be told, which it then counts as."""
        live = self.live(id)
        if live:
            self._states[id] = State.STOPPED
        return live

    def remove(self, id: str) -> bool:
        """Whether its removal is to be told, which it then counts as."""
        return self._states.pop(id, None) is not None
