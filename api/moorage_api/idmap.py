"""Mappings of user and group ids between a user namespace and the host (user_namespaces(7)).

As text a mapping is `CONTAINER:HOST:SIZE` with a comma between ranges, which is how snapshot labels and mount options
have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moorage_api.errors import InvalidArgument

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"

_ID_MAX = (1 << 32) - 1
# The kernel takes 340 ranges.
_RANGES_MAX = 340


@dataclass(frozen=True, slots=True)
class IdRange:
    """`size` ids from `container` on inside are those from `host` on outside."""

    container: int
    host: int
    size: int


@dataclass(frozen=True, slots=True)
class IdMapping:
    """The ranges of one mapping, of user or of group ids. `InvalidArgument` for one that the kernel would not take."""

    ranges: tuple[IdRange, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.ranges) <= _RANGES_MAX:
            raise InvalidArgument(f"an id mapping has {len(self.ranges)} ranges: 1 to {_RANGES_MAX} are possible")
        for entry in self.ranges:
            last = max(entry.container, entry.host) + entry.size - 1
            if min(entry.container, entry.host) < 0 or entry.size < 1 or last >= _ID_MAX:
                raise InvalidArgument(f"{entry.container}:{entry.host}:{entry.size} is no range of ids")
        _check_apart(((entry.container, entry.size) for entry in self.ranges), "in the container")
        _check_apart(((entry.host, entry.size) for entry in self.ranges), "on the host")

    def __str__(self) -> str:
        return ",".join(f"{entry.container}:{entry.host}:{entry.size}" for entry in self.ranges)

    @property
    def lines(self) -> str:
        """As `/proc/PID/uid_map` and `gid_map` take it."""
        return "".join(f"{entry.container} {entry.host} {entry.size}\n" for entry in self.ranges)

    def to_host(self, id: int) -> int:
        """What an id of the container is on the host. `InvalidArgument` where it is not mapped."""
        for entry in self.ranges:
            if entry.container <= id < entry.container + entry.size:
                return entry.host + id - entry.container
        raise InvalidArgument(f"id {id} of the container is not mapped ({self})")


def parse(text: str) -> IdMapping:
    """The mapping that a text describes. `InvalidArgument`."""
    try:
        ranges = tuple(IdRange(*(int(part) for part in entry.split(":"))) for entry in text.split(","))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{text[:80]!r} is no id mapping: expected CONTAINER:HOST:SIZE") from error
    return IdMapping(ranges)


def _check_apart(ranges: Iterable[tuple[int, int]], where: str) -> None:
    end = 0
    for first, size in sorted(ranges):
        if first < end:
            raise InvalidArgument(f"id {first} {where} is mapped twice")
        end = first + size
