"""Limits of containers, between NRI, the CRI and the OCI specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb

# Members of NRI's messages, and what the OCI specification calls them.
_MEMORY = {
    "limit": "limit",
    "reservation": "reservation",
    "swap": "swap",
    "kernel": "kernel",
    "kernel_tcp": "kernelTCP",
    "swappiness": "swappiness",
    "disable_oom_killer": "disableOOMKiller",
    "use_hierarchy": "useHierarchy",
}
_CPU = {
    "shares": "shares",
    "quota": "quota",
    "period": "period",
    "realtime_runtime": "realtimeRuntime",
    "realtime_period": "realtimePeriod",
    "cpus": "cpus",
    "mems": "mems",
}


def to_oci(resources: pb.LinuxResources, *, swap: bool) -> dict[str, Any]:
    """What is given, as members of an OCI `resources` object, but for rules of devices and classes. Without a swap limit
    of its own a memory limit allows no swap, where the host can tell (`swap`). `InvalidArgument` for a class of block
    I/O: none is configured."""
    if resources.blockio_class.value:
        raise InvalidArgument(f"there is no block I/O class {resources.blockio_class.value[:80]!r}")
    found: dict[str, Any] = {}
    memory, cpu = _members(resources.memory, _MEMORY), _members(resources.cpu, _CPU)
    if memory.get("limit") and swap:
        memory.setdefault("swap", memory["limit"])
    found |= {name: values for name, values in (("memory", memory), ("cpu", cpu)) if values}
    if resources.HasField("pids"):
        found["pids"] = {"limit": resources.pids.limit}
    if resources.hugepage_limits:
        found["hugepageLimits"] = [
            {"pageSize": each.page_size, "limit": each.limit} for each in resources.hugepage_limits
        ]
    if resources.unified:
        found["unified"] = dict(resources.unified)
    return found


def from_oci(resources: Mapping[str, Any]) -> pb.LinuxResources:
    """The limits of a specification."""
    message = pb.LinuxResources(unified=resources.get("unified") or {})
    for name, fields in (("memory", _MEMORY), ("cpu", _CPU)):
        values = resources.get(name) or {}
        for field, member in fields.items():
            if values.get(member) is not None:
                _set(getattr(message, name), field, values[member])
    for limit in resources.get("hugepageLimits") or ():
        message.hugepage_limits.add(page_size=limit["pageSize"], limit=limit["limit"])
    for rule in resources.get("devices") or ():
        entry = message.devices.add(allow=rule["allow"], type=rule.get("type", ""), access=rule.get("access", ""))
        for name in ("major", "minor"):
            if rule.get(name) is not None:
                getattr(entry, name).value = rule[name]
    if (resources.get("pids") or {}).get("limit") is not None:
        message.pids.limit = resources["pids"]["limit"]
    return message


def from_cri(resources: cri_pb2.LinuxContainerResources) -> pb.LinuxResources:
    """What is not zero."""
    message = pb.LinuxResources(unified=resources.unified)
    for group, field, value in (
        (message.memory, "limit", resources.memory_limit_in_bytes),
        (message.memory, "swap", resources.memory_swap_limit_in_bytes),
        (message.cpu, "shares", resources.cpu_shares),
        (message.cpu, "quota", resources.cpu_quota),
        (message.cpu, "period", resources.cpu_period),
        (message.cpu, "cpus", resources.cpuset_cpus),
        (message.cpu, "mems", resources.cpuset_mems),
    ):
        if value:
            _set(group, field, value)
    for limit in resources.hugepage_limits:
        message.hugepage_limits.add(page_size=limit.page_size, limit=limit.limit)
    return message


def to_cri(resources: pb.LinuxResources) -> cri_pb2.LinuxContainerResources:
    """Those limits that the CRI knows, for what it shows of a container."""
    memory, cpu = resources.memory, resources.cpu
    return cri_pb2.LinuxContainerResources(
        cpu_period=cpu.period.value,
        cpu_quota=cpu.quota.value,
        cpu_shares=cpu.shares.value,
        cpuset_cpus=cpu.cpus,
        cpuset_mems=cpu.mems,
        memory_limit_in_bytes=memory.limit.value,
        memory_swap_limit_in_bytes=memory.swap.value,
        unified=resources.unified,
        hugepage_limits=[
            cri_pb2.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in resources.hugepage_limits
        ],
    )


def device_rules(resources: pb.LinuxResources) -> list[dict[str, Any]]:
    """The rules for devices, as an OCI specification has them."""
    found = []
    for rule in resources.devices:
        entry: dict[str, Any] = {"allow": rule.allow, "type": rule.type, "access": rule.access}
        entry |= {name: getattr(rule, name).value for name in ("major", "minor") if rule.HasField(name)}
        found.append(entry)
    return found


def _members(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        names[field.name]: value.value if isinstance(value, Message) else value  # type: ignore[attr-defined]
        for field, value in message.ListFields()
    }


def _set(message: Message, field: str, value: Any) -> None:
    """An optional number is a message of its own."""
    if isinstance(value, str):
        setattr(message, field, value)
    else:
        getattr(message, field).value = value
