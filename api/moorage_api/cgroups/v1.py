"""Metrics of a cgroup v1 group (kernel documentation, admin-guide/cgroup-v1)."""

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
from moorage_api.cgroups.location import Group
from moorage_api.wire import cgroups_v1_pb2 as pb

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

# memory.stat key: field, where they differ.
_MEMORY_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
    "total_pgpgin": "total_pg_pg_in",
    "total_pgpgout": "total_pg_pg_out",
    "total_pgfault": "total_pg_fault",
    "total_pgmajfault": "total_pg_maj_fault",
}
_MEMORY_ENTRIES = (
    ("usage", "memory"),
    ("swap", "memory.memsw"),
    ("kernel", "memory.kmem"),
    ("kernel_tcp", "memory.kmem.tcp"),
)
# Field: the file of the CFQ and BFQ schedulers, then that of the throttle, which counts with any scheduler.
_BLKIO = (
    ("io_service_bytes_recursive", "blkio.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"),
    ("io_serviced_recursive", "blkio.io_serviced_recursive", "blkio.throttle.io_serviced"),
    ("io_queued_recursive", "blkio.io_queued_recursive", ""),
    ("io_service_time_recursive", "blkio.io_service_time_recursive", ""),
    ("io_wait_time_recursive", "blkio.io_wait_time_recursive", ""),
    ("io_merged_recursive", "blkio.io_merged_recursive", ""),
    ("io_time_recursive", "blkio.time_recursive", ""),
    ("sectors_recursive", "blkio.sectors_recursive", ""),
)


def read(group: Group) -> pb.Metrics:
    """All that the group's controllers tell."""
    metrics = pb.Metrics()
    _pids(metrics, group.path("pids"))
    _cpu(metrics, group.path("cpu"), group.path("cpuacct"))
    _memory(metrics, group.path("memory"))
    _blkio(metrics, group.path("blkio"))
    _hugetlb(metrics, group.path("hugetlb"))
    _rdma(metrics, group.path("rdma"))
    return metrics


def _pids(metrics: pb.Metrics, folder: str) -> None:
    if folder:
        metrics.pids.current = number(folder, "pids.current")
        limit = number(folder, "pids.max")
        metrics.pids.limit = 0 if limit == UNLIMITED else limit


def _cpu(metrics: pb.Metrics, cpu: str, cpuacct: str) -> None:
    if cpuacct:
        usage = metrics.cpu.usage
        usage.total = number(cpuacct, "cpuacct.usage")
        ticks = keyed(cpuacct, "cpuacct.stat")
        usage.user = ticks.get("user", 0) * _TICK
        usage.kernel = ticks.get("system", 0) * _TICK
        usage.per_cpu.extend(parse(text) for text in read_file(os.path.join(cpuacct, "cpuacct.usage_percpu")).split())
    if cpu:
        stat = keyed(cpu, "cpu.stat")
        metrics.cpu.throttling.periods = stat.get("nr_periods", 0)
        metrics.cpu.throttling.throttled_periods = stat.get("nr_throttled", 0)
        metrics.cpu.throttling.throttled_time = stat.get("throttled_time", 0)


def _memory(metrics: pb.Metrics, folder: str) -> None:
    if not folder:
        return
    memory = metrics.memory
    fields = {field.name for field in memory.DESCRIPTOR.fields if field.message_type is None}
    for key, value in keyed(folder, "memory.stat").items():
        name = _MEMORY_NAMES.get(key, key)
        if name in fields:
            setattr(memory, name, value)
    for field, prefix in _MEMORY_ENTRIES:
        if os.path.exists(os.path.join(folder, f"{prefix}.usage_in_bytes")):
            entry = getattr(memory, field)
            entry.usage = number(folder, f"{prefix}.usage_in_bytes")
            entry.max = number(folder, f"{prefix}.max_usage_in_bytes")
            entry.failcnt = number(folder, f"{prefix}.failcnt")
            entry.limit = number(folder, f"{prefix}.limit_in_bytes")
    control = keyed(folder, "memory.oom_control")
    metrics.memory_oom_control.oom_kill_disable = control.get("oom_kill_disable", 0)
    metrics.memory_oom_control.under_oom = control.get("under_oom", 0)
    metrics.memory_oom_control.oom_kill = control.get("oom_kill", 0)


def _blkio(metrics: pb.Metrics, folder: str) -> None:
    if not folder:
        return
    for field, name, fallback in _BLKIO:
        lines = _blkio_lines(folder, name) or (_blkio_lines(folder, fallback) if fallback else [])
        for dev, op, value in lines:
            major, minor = device(dev)
            getattr(metrics.blkio, field).add(op=op, major=major, minor=minor, value=value)


def _blkio_lines(folder: str, name: str) -> list[tuple[str, str, int]]:
    """`8:0 Read 4096`, or without an operation `8:0 4096`; the line of the total is left out."""
    found = []
    for line in read_file(os.path.join(folder, name)).splitlines():
        words = line.split()
        if len(words) >= 2 and ":" in words[0]:
            found.append((words[0], words[1] if len(words) > 2 else "", parse(words[-1])))
    return found


def _hugetlb(metrics: pb.Metrics, folder: str) -> None:
    for size in huge_page_sizes(folder):
        metrics.hugetlb.add(
            pagesize=size,
            usage=number(folder, f"hugetlb.{size}.usage_in_bytes"),
            max=number(folder, f"hugetlb.{size}.max_usage_in_bytes"),
            failcnt=number(folder, f"hugetlb.{size}.failcnt"),
        )


def _rdma(metrics: pb.Metrics, folder: str) -> None:
    if not folder:
        return
    for name, target in (("rdma.current", metrics.rdma.current), ("rdma.max", metrics.rdma.limit)):
        for line in read_file(os.path.join(folder, name)).splitlines():
            dev, values = nested(line)
            handles, objects = (parse(values.get(key, "")) for key in ("hca_handle", "hca_object"))
            target.add(device=dev, hca_handles=handles & 0xFFFFFFFF, hca_objects=objects & 0xFFFFFFFF)
