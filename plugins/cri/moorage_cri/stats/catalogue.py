"""The metrics of containers and pods: their names, what they mean, and where each value comes from.

The names are those that cAdvisor gives a kubelet. Values are whole numbers on the wire, so seconds are rounded down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from moorage_api.wire import cri_pb2
from moorage_cri.stats.network import Interface
from moorage_cri.stats.processes import Processes
from moorage_cri.stats.usage import DeviceIo, Usage

BASE = ("pod", "namespace", "container", "id", "image")
_DISK = (*BASE, "device")
_NETWORK = (*BASE, "interface")
_SECOND = 1_000_000_000
_MICROSECONDS = 1_000_000

COUNTER, GAUGE = cri_pb2.COUNTER, cri_pb2.GAUGE
Type: TypeAlias = "cri_pb2.MetricType.ValueType"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container's configuration allows it."""

    cpu_period: int
    cpu_quota: int
    cpu_shares: int
    memory: int
    swap: int
    started_at: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of a writable layer, and what the layer takes of it, in bytes and inodes."""

    device: str
    used: int
    total: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one container at a moment."""

    usage: Usage
    processes: Processes
    limits: Limits
    disk: Disk | None


Point = tuple[tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `points` gives its values, each with the values of the labels that it has besides those of all."""

    name: str
    help: str
    type: Type
    points: Callable[[Facts], Iterator[Point]]
    labels: tuple[str, ...] = BASE


@dataclass(frozen=True, slots=True)
class NetworkMetric:
    """A metric of a pod: one value an interface."""

    name: str
    help: str
    value: Callable[[Interface], int]
    labels: tuple[str, ...] = _NETWORK


def _one(value: Callable[[Facts], int]) -> Callable[[Facts], Iterator[Point]]:
    def points(facts: Facts) -> Iterator[Point]:
        yield (), value(facts)

    return points


def _disk(value: Callable[[Disk], int]) -> Callable[[Facts], Iterator[Point]]:
    def points(facts: Facts) -> Iterator[Point]:
        if facts.disk is not None:
            yield (facts.disk.device,), value(facts.disk)

    return points


def _devices(value: Callable[[DeviceIo], int]) -> Callable[[Facts], Iterator[Point]]:
    def points(facts: Facts) -> Iterator[Point]:
        for device in facts.usage.devices:
            yield (f"{device.major}:{device.minor}",), value(device)

    return points


def _device_operations(facts: Facts) -> Iterator[Point]:
    for device in facts.usage.devices:
        numbers = str(device.major), str(device.minor)
        yield (":".join(numbers), *numbers, "Read"), device.read_bytes
        yield (":".join(numbers), *numbers, "Write"), device.written_bytes


def _failures(facts: Facts) -> Iterator[Point]:
    yield ("pgfault", "container"), facts.usage.memory.page_faults
    yield ("pgmajfault", "container"), facts.usage.memory.major_page_faults


def _huge_pages(peak: bool) -> Callable[[Facts], Iterator[Point]]:
    def points(facts: Facts) -> Iterator[Point]:
        for page in facts.usage.huge_pages:
            yield (page.size,), page.peak if peak else page.usage

    return points


def _ulimits(facts: Facts) -> Iterator[Point]:
    for name, limit in facts.processes.ulimits.items():
        yield (name,), limit


def _pressure(resource: str, full: bool) -> Callable[[Facts], Iterator[Point]]:
    def points(facts: Facts) -> Iterator[Point]:
        psi = facts.usage.pressure.get(resource)
        if psi is not None:
            yield (), (psi.Full.Total if full else psi.Some.Total) // _MICROSECONDS

    return points


_CPU = (
    Metric(
        "container_cpu_usage_seconds_total", "CPU time in all.", COUNTER, _one(lambda f: f.usage.cpu.total // _SECOND)
    ),
    Metric(
        "container_cpu_user_seconds_total",
        "CPU time in user mode.",
        COUNTER,
        _one(lambda f: f.usage.cpu.user // _SECOND),
    ),
    Metric(
        "container_cpu_system_seconds_total",
        "CPU time in the kernel.",
        COUNTER,
        _one(lambda f: f.usage.cpu.system // _SECOND),
    ),
    Metric(
        "container_cpu_cfs_periods_total",
        "Periods in which the CPU quota was enforced.",
        COUNTER,
        _one(lambda f: f.usage.cpu.periods),
    ),
    Metric(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the container was throttled.",
        COUNTER,
        _one(lambda f: f.usage.cpu.throttled_periods),
    ),
    Metric(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the container was throttled.",
        COUNTER,
        _one(lambda f: f.usage.cpu.throttled // _SECOND),
    ),
)

_MEMORY_GAUGES = tuple(
    Metric(f"container_memory_{name}", help, type, _one(value))
    for name, help, type, value in (
        ("usage_bytes", "Memory in use, page cache included.", GAUGE, lambda f: f.usage.memory.usage),
        ("max_usage_bytes", "The most memory that was in use at once.", GAUGE, lambda f: f.usage.memory.peak),
        (
            "working_set_bytes",
            "Memory that cannot be given back at once.",
            GAUGE,
            lambda f: f.usage.memory.working_set,
        ),
        ("rss", "Anonymous memory.", GAUGE, lambda f: f.usage.memory.rss),
        ("cache", "Page cache.", GAUGE, lambda f: f.usage.memory.cache),
        ("mapped_file", "Files mapped into memory.", GAUGE, lambda f: f.usage.memory.mapped),
        ("kernel_usage", "Memory of the kernel for the container.", GAUGE, lambda f: f.usage.memory.kernel),
        ("swap", "Swap in use.", GAUGE, lambda f: f.usage.memory.swap),
        ("failcnt", "How often the limit was met.", COUNTER, lambda f: f.usage.memory.failures),
        (
            "total_active_file_bytes",
            "Page cache that was used lately.",
            GAUGE,
            lambda f: f.usage.memory.active_file,
        ),
        (
            "total_inactive_file_bytes",
            "Page cache that may be dropped first.",
            GAUGE,
            lambda f: f.usage.memory.inactive_file,
        ),
    )
)

_MEMORY_OTHERS = (
    Metric(
        "container_memory_failures_total",
        "Page faults, minor and major.",
        COUNTER,
        _failures,
        (*BASE, "failure_type", "scope"),
    ),
    Metric(
        "container_oom_events_total",
        "Processes that were killed for want of memory.",
        COUNTER,
        _one(lambda f: f.usage.memory.oom_kills),
    ),
    Metric("container_hugetlb_usage_bytes", "Huge pages in use.", GAUGE, _huge_pages(False), (*BASE, "pagesize")),
    Metric(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were in use at once.",
        GAUGE,
        _huge_pages(True),
        (*BASE, "pagesize"),
    ),
)

_FILES = (
    Metric("container_fs_usage_bytes", "What the writable layer takes.", GAUGE, _disk(lambda d: d.used), _DISK),
    Metric("container_fs_limit_bytes", "Size of its file system.", GAUGE, _disk(lambda d: d.total), _DISK),
    Metric("container_fs_inodes_total", "Inodes of its file system.", GAUGE, _disk(lambda d: d.inodes), _DISK),
    Metric("container_fs_inodes_free", "Free inodes there.", GAUGE, _disk(lambda d: d.free_inodes), _DISK),
    Metric(
        "container_fs_reads_bytes_total", "Bytes read from devices.", COUNTER, _devices(lambda d: d.read_bytes), _DISK
    ),
    Metric("container_fs_reads_total", "Reads from devices.", COUNTER, _devices(lambda d: d.reads), _DISK),
    Metric(
        "container_fs_writes_bytes_total",
        "Bytes written to devices.",
        COUNTER,
        _devices(lambda d: d.written_bytes),
        _DISK,
    ),
    Metric("container_fs_writes_total", "Writes to devices.", COUNTER, _devices(lambda d: d.writes), _DISK),
    Metric(
        "container_blkio_device_usage_total",
        "Bytes to and from devices.",
        COUNTER,
        _device_operations,
        (*_DISK, "major", "minor", "operation"),
    ),
)

_PROCESSES = (
    Metric("container_processes", "Processes that run.", GAUGE, _one(lambda f: f.processes.count)),
    Metric("container_threads", "Threads that run.", GAUGE, _one(lambda f: f.usage.threads)),
    Metric("container_threads_max", "How many threads may run; 0: any.", GAUGE, _one(lambda f: f.usage.threads_limit)),
    Metric("container_file_descriptors", "Open file descriptors.", GAUGE, _one(lambda f: f.processes.fds)),
    Metric("container_sockets", "Open sockets.", GAUGE, _one(lambda f: f.processes.sockets)),
    Metric("container_ulimits_soft", "Soft limits of the first process; -1: none.", GAUGE, _ulimits, (*BASE, "ulimit")),
)

_PRESSURE = tuple(
    Metric(
        f"container_pressure_{resource}_{word}_seconds_total",
        f"Time for which {who} waited for {what}.",
        COUNTER,
        _pressure(resource, full),
    )
    for resource, what in (("cpu", "CPU time"), ("memory", "memory"), ("io", "input and output"))
    for word, who, full in (("waiting", "some processes", False), ("stalled", "all processes", True))
)

_LIMITS = (
    Metric("container_last_seen", "When it was seen last.", GAUGE, _one(lambda f: f.usage.at // _SECOND)),
    Metric(
        "container_start_time_seconds", "When it was started.", GAUGE, _one(lambda f: f.limits.started_at // _SECOND)
    ),
    Metric("container_spec_cpu_period", "Period of the CPU quota in µs.", GAUGE, _one(lambda f: f.limits.cpu_period)),
    Metric("container_spec_cpu_quota", "The CPU quota in µs.", GAUGE, _one(lambda f: max(0, f.limits.cpu_quota))),
    Metric("container_spec_cpu_shares", "Share of the CPUs.", GAUGE, _one(lambda f: f.limits.cpu_shares)),
    Metric("container_spec_memory_limit_bytes", "Limit of memory; 0: none.", GAUGE, _one(lambda f: f.limits.memory)),
    Metric(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap; 0: none.",
        GAUGE,
        _one(lambda f: f.limits.swap),
    ),
    Metric(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is kept for it; 0: none, as the CRI cannot ask for any.",
        GAUGE,
        _one(lambda f: 0),
    ),
)

CONTAINER: tuple[Metric, ...] = (*_CPU, *_MEMORY_GAUGES, *_MEMORY_OTHERS, *_FILES, *_PROCESSES, *_PRESSURE, *_LIMITS)

POD: tuple[NetworkMetric, ...] = tuple(
    NetworkMetric(f"container_network_{direction}_{what}_total", f"{text} {done}.", value)
    for direction, done, what, text, value in (
        ("receive", "received", "bytes", "Bytes", lambda i: i.rx_bytes),
        ("receive", "received", "packets", "Packets", lambda i: i.rx_packets),
        ("receive", "while receiving", "packets_dropped", "Packets dropped", lambda i: i.rx_dropped),
        ("receive", "while receiving", "errors", "Errors", lambda i: i.rx_errors),
        ("transmit", "sent", "bytes", "Bytes", lambda i: i.tx_bytes),
        ("transmit", "sent", "packets", "Packets", lambda i: i.tx_packets),
        ("transmit", "while sending", "packets_dropped", "Packets dropped", lambda i: i.tx_dropped),
        ("transmit", "while sending", "errors", "Errors", lambda i: i.tx_errors),
    )
)
