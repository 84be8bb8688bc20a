"""PodSandboxStats, ListPodSandboxStats and StreamPodSandboxStats."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from moorage_api.errors import NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.image.fs_info import mountpoint
from moorage_cri.listing import batches
from moorage_cri.model import Sandbox
from moorage_cri.selection import matches
from moorage_cri.stats import messages, network
from moorage_cri.stats.collector import Collector
from moorage_cri.stats.network import Interface

DEFAULT_INTERFACE = "eth0"


class PodSandboxStats:
    """Tells what pods use."""

    def __init__(self, cri: Cri, collector: Collector) -> None:
        self._cri = cri
        self._collector = collector

    async def PodSandboxStats(
        self, request: cri_pb2.PodSandboxStatsRequest, call: Call
    ) -> cri_pb2.PodSandboxStatsResponse:
        sandbox = self._cri.sandboxes.get(request.pod_sandbox_id)
        return cri_pb2.PodSandboxStatsResponse(stats=(await self._stats([sandbox]))[0])

    async def ListPodSandboxStats(
        self, request: cri_pb2.ListPodSandboxStatsRequest, call: Call
    ) -> cri_pb2.ListPodSandboxStatsResponse:
        return cri_pb2.ListPodSandboxStatsResponse(stats=await self._stats(self._wanted(request.filter)))

    async def StreamPodSandboxStats(
        self, request: cri_pb2.StreamPodSandboxStatsRequest, call: Call
    ) -> AsyncIterator[cri_pb2.StreamPodSandboxStatsResponse]:
        for batch in batches(self._wanted(request.filter)):
            yield cri_pb2.StreamPodSandboxStatsResponse(pod_sandbox_stats=await self._stats(batch))

    def _wanted(self, wanted: cri_pb2.PodSandboxStatsFilter) -> list[Sandbox]:
        try:
            found = [self._cri.sandboxes.get(wanted.id)] if wanted.id else list(self._cri.sandboxes)
        except NotFound:
            return []
        return [
            sandbox
            for sandbox in found
            if self._cri.is_ready(sandbox) and matches(sandbox.config.labels, wanted.label_selector)
        ]

    async def _stats(self, sandboxes: Sequence[Sandbox]) -> list[cri_pb2.PodSandboxStats]:
        interfaces = await network.read({each.id: each.netns for each in sandboxes if each.netns})
        return [await self._pod(sandbox, interfaces.get(sandbox.id)) for sandbox in sandboxes]

    async def _pod(self, sandbox: Sandbox, interfaces: list[Interface] | None) -> cri_pb2.PodSandboxStats:
        running = [container for container in self._cri.containers_of(sandbox.id) if container.running]
        samples = await self._collector.containers(running)
        at = time.time_ns()
        linux = cri_pb2.LinuxPodSandboxStats(
            containers=[messages.container_stats(sample, mountpoint(self._cri)) for sample in samples],
            process=cri_pb2.ProcessUsage(
                timestamp=at,
                process_count=messages.value(sum(len(sample.pids) for sample in samples)),
            ),
        )
        if interfaces is not None:
            linux.network.CopyFrom(messages.network(at, interfaces, DEFAULT_INTERFACE))
        own = await self._collector.pod(sandbox)
        if own is not None:
            linux.cpu.CopyFrom(messages.cpu(own, self._collector.pod_rate(sandbox, own)))
            linux.memory.CopyFrom(messages.memory(own))
            linux.io.CopyFrom(messages.io(own))
        else:
            linux.cpu.CopyFrom(messages.sum_cpu(at, linux.containers))
            linux.memory.CopyFrom(messages.sum_memory(at, linux.containers))
        return cri_pb2.PodSandboxStats(attributes=messages.pod_attributes(sandbox), linux=linux)
