"""Readings as the messages of the CRI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moorage_api.wire import cri_pb2
from moorage_cri.model import Sandbox
from moorage_cri.stats.collector import Sample
from moorage_cri.stats.network import Interface
from moorage_cri.stats.usage import Usage


def value(number: int) -> cri_pb2.UInt64Value:
    return cri_pb2.UInt64Value(value=number)


def container_stats(sample: Sample, mountpoint: str) -> cri_pb2.ContainerStats:
    """All that is known; what is not is left out, which tells a kubelet that it is not known."""
    container = sample.container
    stats = cri_pb2.ContainerStats(
        attributes=cri_pb2.ContainerAttributes(
            id=container.id,
            metadata=container.config.metadata,
            labels=container.config.labels,
            annotations=container.config.annotations,
        )
    )
    if sample.usage is not None:
        stats.cpu.CopyFrom(cpu(sample.usage, sample.nano_cores))
        stats.memory.CopyFrom(memory(sample.usage))
        stats.swap.CopyFrom(swap(sample.usage))
        stats.io.CopyFrom(io(sample.usage))
    if sample.layer is not None:
        stats.writable_layer.CopyFrom(
            cri_pb2.FilesystemUsage(
                timestamp=sample.layer.at,
                fs_id=cri_pb2.FilesystemIdentifier(mountpoint=mountpoint),
                used_bytes=value(sample.layer.size),
                inodes_used=value(sample.layer.inodes),
            )
        )
    return stats


def cpu(usage: Usage, nano_cores: int | None) -> cri_pb2.CpuUsage:
    return cri_pb2.CpuUsage(
        timestamp=usage.at,
        usage_core_nano_seconds=value(usage.cpu.total),
        usage_nano_cores=None if nano_cores is None else value(nano_cores),
        psi=usage.pressure.get("cpu"),
    )


def memory(usage: Usage) -> cri_pb2.MemoryUsage:
    found = usage.memory
    return cri_pb2.MemoryUsage(
        timestamp=usage.at,
        working_set_bytes=value(found.working_set),
        available_bytes=value(found.available),
        usage_bytes=value(found.usage),
        rss_bytes=value(found.rss),
        page_faults=value(found.page_faults),
        major_page_faults=value(found.major_page_faults),
        psi=usage.pressure.get("memory"),
    )


def swap(usage: Usage) -> cri_pb2.SwapUsage:
    found = usage.memory
    return cri_pb2.SwapUsage(
        timestamp=usage.at,
        swap_available_bytes=value(max(0, found.swap_limit - found.swap)),
        swap_usage_bytes=value(found.swap),
    )


def io(usage: Usage) -> cri_pb2.IoUsage:
    return cri_pb2.IoUsage(timestamp=usage.at, psi=usage.pressure.get("io"))


def pod_attributes(sandbox: Sandbox) -> cri_pb2.PodSandboxAttributes:
    config = sandbox.config
    return cri_pb2.PodSandboxAttributes(
        id=sandbox.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )


def network(at: int, interfaces: Sequence[Interface], default: str) -> cri_pb2.NetworkUsage:
    """`default` is the interface that is the pod's way out; the others are listed beside it."""
    messages = {each.name: _interface(each) for each in interfaces}
    return cri_pb2.NetworkUsage(
        timestamp=at, default_interface=messages.pop(default, None), interfaces=list(messages.values())
    )


def _interface(found: Interface) -> cri_pb2.NetworkInterfaceUsage:
    return cri_pb2.NetworkInterfaceUsage(
        name=found.name,
        rx_bytes=value(found.rx_bytes),
        rx_errors=value(found.rx_errors),
        tx_bytes=value(found.tx_bytes),
        tx_errors=value(found.tx_errors),
    )


def sum_cpu(at: int, containers: Iterable[cri_pb2.ContainerStats]) -> cri_pb2.CpuUsage:
    """What the containers of a pod have used together, where the pod has no control group of its own."""
    parts = [each.cpu for each in containers if each.HasField("cpu")]
    rates = [part.usage_nano_cores.value for part in parts if part.HasField("usage_nano_cores")]
    return cri_pb2.CpuUsage(
        timestamp=at,
        usage_core_nano_seconds=value(sum(part.usage_core_nano_seconds.value for part in parts)),
        usage_nano_cores=value(sum(rates)) if len(rates) == len(parts) else None,
    )


def sum_memory(at: int, containers: Iterable[cri_pb2.ContainerStats]) -> cri_pb2.MemoryUsage:
    """As `sum_cpu`."""
    parts = [each.memory for each in containers if each.HasField("memory")]

    def total(name: str) -> cri_pb2.UInt64Value:
        return value(sum(getattr(part, name).value for part in parts))

    return cri_pb2.MemoryUsage(
        timestamp=at,
        working_set_bytes=total("working_set_bytes"),
        available_bytes=total("available_bytes"),
        usage_bytes=total("usage_bytes"),
        rss_bytes=total("rss_bytes"),
        page_faults=total("page_faults"),
        major_page_faults=total("major_page_faults"),
    )
