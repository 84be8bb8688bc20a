"""Metrics of a cgroup v2 group (kernel documentation, admin-guide/cgroup-v2)."""

from __future__ import annotations

import os

from moorage_api.cgroups.flatfiles import (
    UNLIMITED,
    device,
    huge_page_sizes,
    keyed,
    nested,
    number,
    parse,
    read_file,
)
from moorage_api.wire import cgroups_v2_pb2 as pb

_CPU = (
    "usage_usec",
    "user_usec",
    "system_usec",
    "nr_periods",
    "nr_throttled",
    "throttled_usec",
    "nr_bursts",
    "burst_usec",
)
# memory.stat key: field, where they differ (older kernels have no _anon and _file of a working set).
_MEMORY_NAMES = {
    "workingset_refault_file": "workingset_refault",
    "workingset_activate_file": "workingset_activate",
}
_IO = ("rbytes", "wbytes", "rios", "wios")


def read(folder: str) -> pb.Metrics:
    """All that the group tells."""
    metrics = pb.Metrics()
    metrics.pids.current = number(folder, "pids.current")
    limit = number(folder, "pids.max")
    metrics.pids.limit = 0 if limit == UNLIMITED else limit
    stat = keyed(folder, "cpu.stat")
    for name in _CPU:
        setattr(metrics.cpu, name, stat.get(name, 0))
    _memory(metrics, folder)
    _io(metrics, folder)
    for message, name in ((metrics.cpu, "cpu"), (metrics.memory, "memory"), (metrics.io, "io")):
        _pressure(message.psi, folder, f"{name}.pressure")
    _hugetlb(metrics, folder)
    _rdma(metrics, folder)
    return metrics


def _memory(metrics: pb.Metrics, folder: str) -> None:
    memory = metrics.memory
    fields = {field.name for field in memory.DESCRIPTOR.fields if field.message_type is None}
    for key, value in keyed(folder, "memory.stat").items():
        name = _MEMORY_NAMES.get(key, key)
        if name in fields:
            setattr(memory, name, value)
    memory.usage = number(folder, "memory.current")
    memory.usage_limit = number(folder, "memory.max")
    memory.max_usage = number(folder, "memory.peak")
    memory.swap_usage = number(folder, "memory.swap.current")
    memory.swap_limit = number(folder, "memory.swap.max")
    memory.swap_max_usage = number(folder, "memory.swap.peak")
    events = keyed(folder, "memory.events")
    for name in metrics.memory_events.DESCRIPTOR.fields_by_name:
        setattr(metrics.memory_events, name, events.get(name, 0))


def _io(metrics: pb.Metrics, folder: str) -> None:
    for line in read_file(os.path.join(folder, "io.stat")).splitlines():
        name, values = nested(line)
        major, minor = device(name)
        entry = metrics.io.usage.add(major=major, minor=minor)
        for key in _IO:
            setattr(entry, key, parse(values.get(key, "")))


def _pressure(psi: pb.PSIStats, folder: str, name: str) -> None:
    for line in read_file(os.path.join(folder, name)).splitlines():
        kind, values = nested(line)
        data = psi.some if kind == "some" else psi.full
        data.avg10, data.avg60, data.avg300 = (float(values.get(key, 0)) for key in ("avg10", "avg60", "avg300"))
        data.total = parse(values.get("total", ""))


def _hugetlb(metrics: pb.Metrics, folder: str) -> None:
    for size in huge_page_sizes(folder):
        metrics.hugetlb.add(
            pagesize=size,
            current=number(folder, f"hugetlb.{size}.current"),
            max=number(folder, f"hugetlb.{size}.max"),
            failcnt=keyed(folder, f"hugetlb.{size}.events").get("max", 0),
        )


def _rdma(metrics: pb.Metrics, folder: str) -> None:
    for name, target in (("rdma.current", metrics.rdma.current), ("rdma.max", metrics.rdma.limit)):
        for line in read_file(os.path.join(folder, name)).splitlines():
            dev, values = nested(line)
            handles, objects = (parse(values.get(key, "")) for key in ("hca_handle", "hca_object"))
            target.add(device=dev, hca_handles=handles & 0xFFFFFFFF, hca_objects=objects & 0xFFFFFFFF)
