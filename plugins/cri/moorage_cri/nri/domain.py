"""The pods and containers of the CRI plugin, as NRI's plugins find them and change them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.container import stopping
from moorage_cri.container.host import host
from moorage_cri.container.update import update
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.nri import describe
from moorage_cri.nri.resources import to_cri, to_oci

logger = logging.getLogger(__name__)

# How long one update may take, waiting for what holds the container included, in seconds.
_UPDATE_SECONDS = 10.0


class CriDomain:
    """What plugins are told of, and may change."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def state(self) -> tuple[list[pb.PodSandbox], list[pb.Container]]:
        """Every pod, and every container whose end plugins have not been told."""
        cri, ledger = self._cri, self._cri.nri.ledger
        for sandbox in cri.sandboxes:
            if sandbox.id not in ledger:
                ledger.add(sandbox.id, live=cri.is_ready(sandbox) or cri.network.stands(sandbox.id))
        for container in cri.containers:
            if container.id not in ledger and not container.run.finished_at:
                ledger.add(container.id)
        found = [container for container in cri.containers if ledger.live(container.id)]
        specs = await cri.run(lambda: [describe.spec_of(cri, container.id) for container in found])
        containers = [describe.container(*each) for each in zip(found, specs, strict=True)]
        return [describe.pod(cri, sandbox) for sandbox in cri.sandboxes], containers

    async def change(
        self, plugin: str, updates: Sequence[pb.ContainerUpdate], evictions: Sequence[pb.ContainerEviction] = ()
    ) -> list[pb.ContainerUpdate]:
        """A container that is gone needs no change. Those of one container are made in the order in which they were
        asked for; one failure keeps none of the others."""
        works = [self._evict(plugin, eviction) for eviction in evictions]
        results = await asyncio.gather(*(self._update(plugin, each) for each in updates), *works)
        return [each for each, done in zip(updates, results, strict=False) if not done and not each.ignore_failure]

    async def _update(self, plugin: str, wanted: pb.ContainerUpdate) -> bool:
        resources = wanted.linux.resources
        container = self._find(wanted.container_id)
        if container is None or not resources.ListFields():
            return True
        try:
            async with asyncio.timeout(_UPDATE_SECONDS), container.lock:
                await update(self._cri, container, to_cri(resources), to_oci(resources, swap=host().swap))
        except (NotFound, FailedPrecondition):
            return True  # It has ended meanwhile.
        except (MoorageError, TimeoutError) as error:
            logger.warning("NRI plugin %s: container %s could not be updated: %r", plugin, container.id, error)
            return False
        return True

    async def _evict(self, plugin: str, wanted: pb.ContainerEviction) -> bool:
        container = self._find(wanted.container_id)
        if container is None:
            return True
        logger.info("NRI plugin %s evicts container %s: %s", plugin, container.id, wanted.reason or "without a reason")
        try:
            await stopping.stop(self._cri, container, 0)
        except MoorageError as error:
            logger.warning("NRI plugin %s: container %s could not be stopped: %s", plugin, container.id, error)
            return False
        return True

    def _find(self, id: str) -> Container | None:
        return self._cri.containers.get(id) if id in self._cri.containers else None
