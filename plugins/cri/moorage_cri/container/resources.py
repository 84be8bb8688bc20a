"""Resource limits of containers: from CRI to the OCI specification, and to what a status shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from moorage_api.errors import InvalidArgument
from moorage_api.wire import cri_pb2
from moorage_cri.container.host import Host

logger = logging.getLogger(__name__)

_OOM_SCORES = range(-1000, 1001)


def check(resources: cri_pb2.LinuxContainerResources) -> None:
    """`InvalidArgument` for limits that mean nothing."""
    for name in ("cpu_period", "cpu_shares", "memory_limit_in_bytes"):
        if getattr(resources, name) < 0:
            raise InvalidArgument(f"{name} must not be negative: {getattr(resources, name)}")
    if resources.oom_score_adj not in _OOM_SCORES:
        raise InvalidArgument(f"oom_score_adj {resources.oom_score_adj} is not from -1000 to 1000")
    for name in resources.unified:
        if "/" in name or name in ("", ".", ".."):
            raise InvalidArgument(f"unified resource {name[:80]!r} is not the name of a cgroup file")


def oci_resources(resources: cri_pb2.LinuxContainerResources, host: Host) -> dict[str, Any]:
    """The members of an OCI `resources` object; what is zero is left to the kernel.

    Without a swap limit of its own a container gets none, where the kernel can tell. `InvalidArgument` for huge page
    limits on a host without their controller.
    """
    found: dict[str, Any] = {}
    cpu = {
        "shares": resources.cpu_shares,
        "quota": resources.cpu_quota,
        "period": resources.cpu_period,
        "cpus": resources.cpuset_cpus,
        "mems": resources.cpuset_mems,
    }
    limit, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    memory = {"limit": limit, "swap": (swap or limit) if host.swap else 0}
    for name, values in (("cpu", cpu), ("memory", memory)):
        given = {key: value for key, value in values.items() if value}
        if given:
            found[name] = given
    if resources.hugepage_limits:
        if not host.hugetlb and any(limit.limit for limit in resources.hugepage_limits):
            raise InvalidArgument("huge page limits need the hugetlb cgroup controller, which this host does not have")
        if host.hugetlb:
            found["hugepageLimits"] = [
                {"pageSize": limit.page_size, "limit": limit.limit} for limit in resources.hugepage_limits
            ]
    if resources.unified:
        if not host.unified:
            raise InvalidArgument("unified resources need a host with cgroup v2 alone")
        found["unified"] = dict(resources.unified)
    return found


def merge(into: cri_pb2.LinuxContainerResources, wanted: cri_pb2.LinuxContainerResources) -> None:
    """Set in `into` what `wanted` gives: numbers and texts that are not empty, single unified files, page sizes."""
    for field, value in wanted.ListFields():
        if field.name not in ("hugepage_limits", "unified"):
            setattr(into, field.name, value)
    into.unified.update(wanted.unified)
    sizes = {limit.page_size: limit for limit in into.hugepage_limits}
    for limit in wanted.hugepage_limits:
        if limit.page_size in sizes:
            sizes[limit.page_size].limit = limit.limit
        else:
            into.hugepage_limits.add().CopyFrom(limit)


def merge_oci(into: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Set members of an OCI `resources` object; those of its objects are set one by one."""
    for name, value in found.items():
        into[name] = {**(into.get(name) or {}), **value} if isinstance(value, Mapping) else value


def oom_score_adj(wanted: int, host: Host) -> int:
    """`wanted`, or the daemon's own where it may not go lower."""
    if wanted < host.oom_score_adj and not host.may_lower_oom_score:
        _warn_once()
        return host.oom_score_adj
    return wanted


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning("oom_score_adj of containers cannot be lowered here, for want of CAP_SYS_RESOURCE")
