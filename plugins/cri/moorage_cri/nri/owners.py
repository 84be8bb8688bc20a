"""Which plugin has set what of which container: two must not set the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from moorage_api.errors import InvalidArgument
from moorage_api.wire import nri_pb2 as pb

Field: TypeAlias = "pb.Field.ValueType"

_REMOVED = "-"

MEMORY: Mapping[str, Field] = {
    "limit": pb.MemLimit,
    "reservation": pb.MemReservation,
    "swap": pb.MemSwapLimit,
    "kernel": pb.MemKernelLimit,
    "kernel_tcp": pb.MemTCPLimit,
    "swappiness": pb.MemSwappiness,
    "disable_oom_killer": pb.MemDisableOomKiller,
    "use_hierarchy": pb.MemUseHierarchy,
}
"""What owns the members of `LinuxMemory`."""

CPU: Mapping[str, Field] = {
    "shares": pb.CPUShares,
    "quota": pb.CPUQuota,
    "period": pb.CPUPeriod,
    "realtime_runtime": pb.CPURealtimeRuntime,
    "realtime_period": pb.CPURealtimePeriod,
    "cpus": pb.CPUSetCPUs,
    "mems": pb.CPUSetMems,
}
"""What owns the members of `LinuxCPU`."""


def marked(key: str) -> bool:
    """Whether a key asks for the removal of what it names, by the mark before it."""
    return key.startswith(_REMOVED)


def name(key: str) -> str:
    """What a key names, without the mark of removal."""
    return key.removeprefix(_REMOVED)


def mark(key: str) -> str:
    """The key that asks for the removal of `key`."""
    return f"{_REMOVED}{key}"


class Owners:
    """Owners of the fields of containers, while one request goes from plugin to plugin. `key` names one entry of a
    field that has several. What a plugin has cleared is kept under its name, marked: it alone may set it anew."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, Field, str], str] = {}

    def claim(self, id: str, field: Field, plugin: str, key: str = "") -> None:
        """Note that `plugin` sets this. `InvalidArgument` where it has been set."""
        owner = self._owners.get((id, field, key))
        if owner is not None and owner != mark(plugin):
            what = f"{pb.Field.Name(field)} {key}".rstrip()
            raise InvalidArgument(f"NRI plugins {name(owner)} and {plugin} both set {what} of container {id}")
        self._owners[id, field, key] = plugin

    def clear(self, id: str, field: Field, plugin: str, key: str = "") -> None:
        """Note that `plugin` has taken away what another had set."""
        if (id, field, key) in self._owners:
            self._owners[id, field, key] = mark(plugin)

    def join(self, id: str, field: Field, plugin: str) -> None:
        """Note that `plugin` has added to what several may add to."""
        owner = self._owners.get((id, field, ""))
        self._owners[id, field, ""] = f"{owner},{plugin}" if owner else plugin

    def of(self, id: str, field: Field) -> dict[str, str]:
        """The owners of a field's entries, by key."""
        return {key: owner for (owned, number, key), owner in self._owners.items() if owned == id and number == field}

    def message(self) -> pb.OwningPlugins:
        """As validators get it."""
        found = pb.OwningPlugins()
        for (id, field, key), owner in self._owners.items():
            if key:
                found.owners[id].compound[field].owners[key] = owner
            else:
                found.owners[id].simple[field] = owner
        return found
