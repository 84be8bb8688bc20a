"""ListMetricDescriptors, ListPodSandboxMetrics and StreamPodSandboxMetrics."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.image.fs_info import mountpoint
from moorage_cri.listing import batches
from moorage_cri.model import Container, Sandbox
from moorage_cri.stats import catalogue, messages, network, processes
from moorage_cri.stats.catalogue import Disk, Facts, Limits
from moorage_cri.stats.collector import Collector, Sample
from moorage_cri.stats.network import Interface

_DEFAULT_PERIOD = 100_000


class Metrics:
    """Tells metrics as a kubelet passes them on to Prometheus."""

    def __init__(self, cri: Cri, collector: Collector) -> None:
        self._cri = cri
        self._collector = collector

    async def ListMetricDescriptors(
        self, request: cri_pb2.ListMetricDescriptorsRequest, call: Call
    ) -> cri_pb2.ListMetricDescriptorsResponse:
        return cri_pb2.ListMetricDescriptorsResponse(
            descriptors=[
                *(_descriptor(each.name, each.help, each.labels) for each in catalogue.CONTAINER),
                *(_descriptor(each.name, each.help, each.labels) for each in catalogue.POD),
            ]
        )

    async def ListPodSandboxMetrics(
        self, request: cri_pb2.ListPodSandboxMetricsRequest, call: Call
    ) -> cri_pb2.ListPodSandboxMetricsResponse:
        return cri_pb2.ListPodSandboxMetricsResponse(pod_metrics=await self._metrics(self._ready()))

    async def StreamPodSandboxMetrics(
        self, request: cri_pb2.StreamPodSandboxMetricsRequest, call: Call
    ) -> AsyncIterator[cri_pb2.StreamPodSandboxMetricsResponse]:
        for batch in batches(self._ready()):
            yield cri_pb2.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=await self._metrics(batch))

    def _ready(self) -> list[Sandbox]:
        return [sandbox for sandbox in self._cri.sandboxes if self._cri.is_ready(sandbox)]

    async def _metrics(self, sandboxes: Sequence[Sandbox]) -> list[cri_pb2.PodSandboxMetrics]:
        wanted = {sandbox.id for sandbox in sandboxes}
        running = [each for each in self._cri.containers if each.running and each.sandbox_id in wanted]
        samples = [sample for sample in await self._collector.containers(running) if sample.usage is not None]
        facts = await self._cri.run(_facts, samples, mountpoint(self._cri))
        interfaces = await network.read({each.id: each.netns for each in sandboxes if each.netns})
        found = []
        for sandbox in sandboxes:
            message = cri_pb2.PodSandboxMetrics(
                pod_sandbox_id=sandbox.id, metrics=_pod_metrics(sandbox, interfaces.get(sandbox.id, []))
            )
            for container, known in facts:
                if container.sandbox_id == sandbox.id:
                    metrics = list(_container_metrics(sandbox, container, known))
                    message.container_metrics.add(container_id=container.id, metrics=metrics)
            found.append(message)
        return found


def _descriptor(name: str, help: str, labels: Sequence[str]) -> cri_pb2.MetricDescriptor:
    return cri_pb2.MetricDescriptor(name=name, help=help, label_keys=labels)


def _facts(samples: Sequence[Sample], mountpoint: str) -> list[tuple[Container, Facts]]:
    """Look at the processes and the file system; `samples` are those of running containers."""
    whole = os.statvfs(mountpoint) if os.path.isdir(mountpoint) else None
    device = _device(mountpoint) if whole is not None else ""
    found = []
    for sample in samples:
        container = sample.container
        disk = None
        if whole is not None and sample.layer is not None:
            disk = Disk(device, sample.layer.size, whole.f_blocks * whole.f_frsize, whole.f_files, whole.f_ffree)
        assert sample.usage is not None
        opened = processes.read(sample.pids, container.run.pid)
        found.append((container, Facts(sample.usage, opened, _limits(container), disk)))
    return found


def _limits(container: Container) -> Limits:
    given = container.config.linux.resources
    return Limits(
        cpu_period=given.cpu_period or _DEFAULT_PERIOD,
        cpu_quota=given.cpu_quota,
        cpu_shares=given.cpu_shares,
        memory=given.memory_limit_in_bytes,
        swap=given.memory_swap_limit_in_bytes,
        started_at=container.run.started_at,
    )


def _device(path: str) -> str:
    number = os.stat(path).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _container_metrics(sandbox: Sandbox, container: Container, facts: Facts) -> Iterator[cri_pb2.Metric]:
    labels = (*_pod(sandbox), container.config.metadata.name, container.id, container.image_name)
    for metric in catalogue.CONTAINER:
        for extra, value in metric.points(facts):
            yield cri_pb2.Metric(
                name=metric.name,
                timestamp=facts.usage.at,
                metric_type=metric.type,
                label_values=(*labels, *extra),
                value=messages.value(value),
            )


def _pod_metrics(sandbox: Sandbox, interfaces: Sequence[Interface]) -> list[cri_pb2.Metric]:
    """A pod's network is nobody's in particular: the container and the image are empty."""
    at = time.time_ns()
    return [
        cri_pb2.Metric(
            name=metric.name,
            timestamp=at,
            metric_type=catalogue.COUNTER,
            label_values=(*_pod(sandbox), "", sandbox.id, "", interface.name),
            value=messages.value(metric.value(interface)),
        )
        for interface in interfaces
        for metric in catalogue.POD
    ]


def _pod(sandbox: Sandbox) -> tuple[str, str]:
    return sandbox.config.metadata.name, sandbox.config.metadata.namespace
