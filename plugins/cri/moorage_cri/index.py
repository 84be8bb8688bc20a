"""Objects by id, or by the beginning of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from moorage_api.errors import InvalidArgument, NotFound

T = TypeVar("T")


class Index(Generic[T]):
    """What is there, in the order in which it was added. `what` names the kind in errors."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._items: dict[str, T] = {}

    def get(self, id: str) -> T:
        """By its id, or by a beginning of it that no other has.

        `InvalidArgument` for an empty id, or a beginning that several have; `NotFound`.
        """
        item = self._items.get(id)
        if item is not None:
            return item
        if not id:
            raise InvalidArgument(f"the {self._what} id is empty")
        found = [key for key in self._items if key.startswith(id)]
        if len(found) > 1:
            raise InvalidArgument(f"{len(found)} {self._what} ids begin with {id[:80]!r}")
        if not found:
            raise NotFound(f"no {self._what} {id[:80]!r}")
        return self._items[found[0]]

    def add(self, id: str, item: T) -> None:
        self._items[id] = item

    def discard(self, id: str) -> None:
        self._items.pop(id, None)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items.values()))

    def __contains__(self, id: str) -> bool:
        return id in self._items

    def __len__(self) -> int:
        return len(self._items)
