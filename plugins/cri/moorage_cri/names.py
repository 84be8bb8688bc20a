"""Names of pods and containers: reserved before anything is made, so that a retry meets its first try."""

from __future__ import annotations

import time
from dataclasses import dataclass

from moorage_api.errors import AlreadyExists


@dataclass(slots=True)
class _Holder:
    id: str
    since: float
    made: bool = False


class Names:
    """Who holds which name. `what` names the kind in errors."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._held: dict[str, _Holder] = {}

    def reserve(self, name: str, id: str) -> None:
        """Hold `name` for what is being made as `id`. `AlreadyExists`, saying who holds it and since when."""
        holder = self._held.get(name)
        if holder is not None:
            state = "" if holder.made else f", which is being made since {time.monotonic() - holder.since:.1f} s"
            raise AlreadyExists(f"{self._what} name {name!r} is held by {holder.id}{state}")
        self._held[name] = _Holder(id, time.monotonic())

    def made(self, name: str) -> None:
        """What `name` was reserved for exists now."""
        self._held[name].made = True

    def restore(self, name: str, id: str) -> None:
        """Hold `name` for what an earlier run of the daemon made."""
        self._held[name] = _Holder(id, time.monotonic(), made=True)

    def release(self, name: str, id: str) -> None:
        """Give `name` up, if `id` holds it."""
        holder = self._held.get(name)
        if holder is not None and holder.id == id:
            del self._held[name]


def pod_name(name: str, namespace: str, uid: str, attempt: int) -> str:
    """What makes a pod's sandbox unique, joined as containerd joins it."""
    return "_".join((name, namespace, uid, str(attempt)))


def container_name(container: str, attempt: int, pod: str, namespace: str, uid: str) -> str:
    """What makes a container unique."""
    return "_".join((container, pod, namespace, uid, str(attempt)))
