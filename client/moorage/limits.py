"""Limits of a container, as its options name them."""

from __future__ import annotations

import os
import resource
from typing import Any

from moorage.options import ContainerOptions
from moorage_api.errors import InvalidArgument
from moorage_api.oci import spec as oci

_CPU_PERIOD = 100_000
_UNLIMITED = 1 << 64
_MOST = (1 << 63) - 1
_MEMORY_LEAST = 6 << 20


def set_limits(spec: oci.Spec, options: ContainerOptions) -> None:
    """Set the limits that the options name, in place of earlier ones. `InvalidArgument`."""
    _check_numbers(options)
    resources = spec["linux"]["resources"]
    for name, limits in (("memory", _memory(options)), ("cpu", _cpu(options))):
        if limits:
            resources[name] = limits
    if options.pids_limit > 0:
        resources["pids"] = {"limit": options.pids_limit}
    for ulimit in options.ulimits:
        oci.set_rlimit(spec, *_ulimit(ulimit))


def _check_numbers(options: ContainerOptions) -> None:
    """`InvalidArgument` for what no field of the specification can have, or the kernel would take for something else."""
    for name in ("memory", "memory_swap", "memory_reservation", "pids_limit", "cpu_shares", "cpu_period", "cpu_quota"):
        value = getattr(options, name)
        least = -1 if name in ("memory_swap", "pids_limit", "cpu_quota") else 0
        if not least <= value <= _MOST:
            raise InvalidArgument(f"{name.replace('_', ' ')} is {value}: expected {least} to {_MOST}")


def _memory(options: ContainerOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.memory:
        if options.memory < _MEMORY_LEAST:
            raise InvalidArgument(f"a memory limit of {options.memory} bytes is too small: at least 6 MiB")
        found["limit"] = options.memory
    if options.memory_swap:
        if not options.memory or 0 <= options.memory_swap < options.memory:
            raise InvalidArgument("memory and swap together need a limit of memory, and cannot be less than it")
        found["swap"] = options.memory_swap
    if options.memory_reservation:
        if options.memory and options.memory_reservation > options.memory:
            raise InvalidArgument("the reservation of memory is more than its limit")
        found["reservation"] = options.memory_reservation
    return found


def _cpu(options: ContainerOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.cpus:
        if not 0.01 <= options.cpus <= (os.cpu_count() or 1):
            raise InvalidArgument(f"cpus is {options.cpus:g}: expected 0.01 to {os.cpu_count()}")
        if options.cpu_period or options.cpu_quota:
            raise InvalidArgument("cpus conflicts with cpu-period and cpu-quota")
        found |= {"quota": round(options.cpus * _CPU_PERIOD), "period": _CPU_PERIOD}
    named = {
        "shares": options.cpu_shares,
        "cpus": options.cpuset_cpus,
        "mems": options.cpuset_mems,
        "period": options.cpu_period,
        "quota": options.cpu_quota,
    }
    return found | {name: value for name, value in named.items() if value}


def _ulimit(text: str) -> tuple[str, int, int]:
    """`nofile=1024:2048` as the type, the soft and the hard limit; -1 is none."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    kind = f"RLIMIT_{name.upper()}"
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise InvalidArgument(f"invalid ulimit {text!r}: expected NAME=SOFT[:HARD], as nofile=1024:2048") from None
    if not hasattr(resource, kind):
        raise InvalidArgument(f"invalid ulimit {text!r}: the kernel has no limit {name!r}")
    if high != -1 and (low > high or low == -1):
        raise InvalidArgument(f"invalid ulimit {text!r}: the soft limit is above the hard one")
    return kind, low % _UNLIMITED, high % _UNLIMITED
