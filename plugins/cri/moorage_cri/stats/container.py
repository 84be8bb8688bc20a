"""ContainerStats, ListContainerStats and StreamContainerStats."""

from __future__ import annotations

from collections.abc import AsyncIterator

from moorage_api.errors import NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.image.fs_info import mountpoint
from moorage_cri.listing import batches
from moorage_cri.model import Container
from moorage_cri.selection import matches
from moorage_cri.stats import messages
from moorage_cri.stats.collector import Collector


class ContainerStats:
    """Tells what containers use."""

    def __init__(self, cri: Cri, collector: Collector) -> None:
        self._cri = cri
        self._collector = collector

    async def ContainerStats(
        self, request: cri_pb2.ContainerStatsRequest, call: Call
    ) -> cri_pb2.ContainerStatsResponse:
        """Of one that does not run there is no more than its writable layer."""
        container = self._cri.containers.get(request.container_id)
        return cri_pb2.ContainerStatsResponse(stats=(await self._stats([container]))[0])

    async def ListContainerStats(
        self, request: cri_pb2.ListContainerStatsRequest, call: Call
    ) -> cri_pb2.ListContainerStatsResponse:
        return cri_pb2.ListContainerStatsResponse(stats=await self._stats(self._wanted(request.filter)))

    async def StreamContainerStats(
        self, request: cri_pb2.StreamContainerStatsRequest, call: Call
    ) -> AsyncIterator[cri_pb2.StreamContainerStatsResponse]:
        for batch in batches(self._wanted(request.filter)):
            yield cri_pb2.StreamContainerStatsResponse(container_stats=await self._stats(batch))

    async def _stats(self, containers: list[Container]) -> list[cri_pb2.ContainerStats]:
        samples = await self._collector.containers(containers)
        return [messages.container_stats(sample, mountpoint(self._cri)) for sample in samples]

    def _wanted(self, wanted: cri_pb2.ContainerStatsFilter) -> list[Container]:
        """The running containers that the filter means; ids may be the beginnings of them."""
        try:
            sandbox = self._cri.sandboxes.get(wanted.pod_sandbox_id).id if wanted.pod_sandbox_id else ""
            found = [self._cri.containers.get(wanted.id)] if wanted.id else list(self._cri.containers)
        except NotFound:
            return []
        return [
            container
            for container in found
            if container.running
            and (not sandbox or container.sandbox_id == sandbox)
            and matches(container.config.labels, wanted.label_selector)
        ]
