"""What a control group has used, the same for both versions of control groups."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from moorage_api import cgroups
from moorage_api.wire import cgroups_v1_pb2, cgroups_v2_pb2, cri_pb2

# What the kernel shows for a limit that is none: the largest number of pages in v1, `max` in v2.
_NO_LIMIT = 1 << 60
_MICROSECOND = 1000


@dataclass(frozen=True, slots=True)
class Cpu:
    """Times in nanoseconds."""

    total: int = 0
    user: int = 0
    system: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and counts of faults; a limit of zero is none. `working_set` is what can't be given back at once."""

    usage: int = 0
    limit: int = 0
    peak: int = 0
    working_set: int = 0
    rss: int = 0
    cache: int = 0
    mapped: int = 0
    kernel: int = 0
    active_file: int = 0
    inactive_file: int = 0
    swap: int = 0
    swap_limit: int = 0
    failures: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    oom_kills: int = 0

    @property
    def available(self) -> int:
        """What is left up to the limit; zero where there is none."""
        return max(0, self.limit - self.working_set) if self.limit else 0


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """What went to and from one block device, since the group was made."""

    major: int
    minor: int
    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class HugePages:
    """Bytes in huge pages of one size (`2MB`)."""

    size: str
    usage: int
    peak: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One reading, `at` in nanoseconds since 1970. Pressure is None where the kernel does not tell it of a group."""

    at: int
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    threads: int = 0
    threads_limit: int = 0
    devices: tuple[DeviceIo, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()
    pressure: dict[str, cri_pb2.PsiStats] = field(default_factory=dict)


def read(group: cgroups.Group) -> Usage:
    """Read a group's files now; those that are missing count as zero. I/O, of the kernel's memory alone."""
    metrics = cgroups.metrics(group)
    return _of_v1(metrics) if isinstance(metrics, cgroups_v1_pb2.Metrics) else _of_v2(metrics)


def _of_v1(metrics: cgroups_v1_pb2.Metrics) -> Usage:
    return Usage(
        at=time.time_ns(),
        cpu=Cpu(
            total=metrics.cpu.usage.total,
            user=metrics.cpu.usage.user,
            system=metrics.cpu.usage.kernel,
            periods=metrics.cpu.throttling.periods,
            throttled_periods=metrics.cpu.throttling.throttled_periods,
            throttled=metrics.cpu.throttling.throttled_time,
        ),
        memory=_memory_of_v1(metrics),
        threads=metrics.pids.current,
        threads_limit=metrics.pids.limit,
        devices=_devices_of_v1(metrics.blkio),
        huge_pages=tuple(HugePages(page.pagesize, page.usage, page.max) for page in metrics.hugetlb),
    )


def _memory_of_v1(metrics: cgroups_v1_pb2.Metrics) -> Memory:
    memory = metrics.memory
    # Memory and swap are counted together; where swap is not counted, the file is missing.
    both = memory.swap.usage
    limit, both_limit = _limit(memory.usage.limit), _limit(memory.swap.limit)
    return Memory(
        usage=memory.usage.usage,
        limit=limit,
        peak=memory.usage.max,
        working_set=max(0, memory.usage.usage - memory.total_inactive_file),
        rss=memory.total_rss,
        cache=memory.total_cache,
        mapped=memory.total_mapped_file,
        kernel=memory.kernel.usage,
        active_file=memory.total_active_file,
        inactive_file=memory.total_inactive_file,
        swap=max(0, both - memory.usage.usage) if both else 0,
        swap_limit=max(0, both_limit - limit) if limit else 0,
        failures=memory.usage.failcnt,
        page_faults=memory.total_pg_fault,
        major_page_faults=memory.total_pg_maj_fault,
        oom_kills=metrics.memory_oom_control.oom_kill,
    )


def _of_v2(metrics: cgroups_v2_pb2.Metrics) -> Usage:
    cpu = metrics.cpu
    return Usage(
        at=time.time_ns(),
        cpu=Cpu(
            total=cpu.usage_usec * _MICROSECOND,
            user=cpu.user_usec * _MICROSECOND,
            system=cpu.system_usec * _MICROSECOND,
            periods=cpu.nr_periods,
            throttled_periods=cpu.nr_throttled,
            throttled=cpu.throttled_usec * _MICROSECOND,
        ),
        memory=_memory_of_v2(metrics),
        threads=metrics.pids.current,
        threads_limit=metrics.pids.limit,
        devices=tuple(
            DeviceIo(entry.major, entry.minor, entry.rbytes, entry.wbytes, entry.rios, entry.wios)
            for entry in metrics.io.usage
        ),
        huge_pages=tuple(HugePages(page.pagesize, page.current, page.current) for page in metrics.hugetlb),
        pressure={
            "cpu": _pressure(cpu.psi),
            "memory": _pressure(metrics.memory.psi),
            "io": _pressure(metrics.io.psi),
        },
    )


def _memory_of_v2(metrics: cgroups_v2_pb2.Metrics) -> Memory:
    memory = metrics.memory
    return Memory(
        usage=memory.usage,
        limit=_limit(memory.usage_limit),
        peak=memory.max_usage,
        working_set=max(0, memory.usage - memory.inactive_file),
        rss=memory.anon,
        cache=memory.file,
        mapped=memory.file_mapped,
        kernel=memory.kernel_stack + memory.slab,
        active_file=memory.active_file,
        inactive_file=memory.inactive_file,
        swap=memory.swap_usage,
        swap_limit=_limit(memory.swap_limit),
        failures=metrics.memory_events.max,
        page_faults=memory.pgfault,
        major_page_faults=memory.pgmajfault,
        oom_kills=metrics.memory_events.oom_kill,
    )


def _devices_of_v1(blkio: cgroups_v1_pb2.BlkIOStat) -> tuple[DeviceIo, ...]:
    counted = _operations(blkio.io_service_bytes_recursive), _operations(blkio.io_serviced_recursive)
    found = []
    for major, minor in sorted({*counted[0], *counted[1]}):
        size, count = (each.get((major, minor), {}) for each in counted)
        found.append(
            DeviceIo(
                major, minor, size.get("read", 0), size.get("write", 0), count.get("read", 0), count.get("write", 0)
            )
        )
    return tuple(found)


def _operations(entries: Iterable[cgroups_v1_pb2.BlkIOEntry]) -> dict[tuple[int, int], dict[str, int]]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for entry in entries:
        found.setdefault((entry.major, entry.minor), {})[entry.op.lower()] = entry.value
    return found


def _pressure(psi: cgroups_v2_pb2.PSIStats) -> cri_pb2.PsiStats:
    def data(found: cgroups_v2_pb2.PSIData) -> cri_pb2.PsiData:
        return cri_pb2.PsiData(Total=found.total, Avg10=found.avg10, Avg60=found.avg60, Avg300=found.avg300)

    return cri_pb2.PsiStats(Full=data(psi.full), Some=data(psi.some))


def _limit(value: int) -> int:
    return 0 if value >= _NO_LIMIT else value
