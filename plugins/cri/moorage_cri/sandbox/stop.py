"""StopPodSandbox and RemovePodSandbox."""

from __future__ import annotations

import asyncio
import logging

from moorage_api.errors import MoorageError, NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri import events
from moorage_cri.concurrency import together
from moorage_cri.container import removal, stopping
from moorage_cri.container.ending import ended
from moorage_cri.context import Cri
from moorage_cri.model import Container, Sandbox
from moorage_cri.nri import lifecycle
from moorage_cri.sandbox import files, teardown
from moorage_cri.sandbox.run import forget

logger = logging.getLogger(__name__)

# How long containers may take to be killed one by one, in seconds.
_KILL_SECONDS = 4.0
# How long the end of the shim may take to be seen as the end of its containers, in seconds.
_SETTLE_SECONDS = 2.0


class StopPodSandbox:
    """Stops and removes pods. Both calls are idempotent: an unknown pod is one that is gone."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def StopPodSandbox(
        self, request: cri_pb2.StopPodSandboxRequest, call: Call
    ) -> cri_pb2.StopPodSandboxResponse:
        sandbox = self._find(request.pod_sandbox_id)
        if sandbox is not None:
            async with sandbox.lock:
                await self._stop(sandbox)
        return cri_pb2.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri_pb2.RemovePodSandboxRequest, call: Call
    ) -> cri_pb2.RemovePodSandboxResponse:
        sandbox = self._find(request.pod_sandbox_id)
        if sandbox is not None:
            async with sandbox.lock:
                await self._remove(sandbox)
        return cri_pb2.RemovePodSandboxResponse()

    def _find(self, id: str) -> Sandbox | None:
        try:
            return self._cri.sandboxes.get(id)
        except NotFound:
            return None

    async def _stop(self, sandbox: Sandbox) -> None:
        """Kill the containers, tell NRI's plugins, and end the shim, whatever they came to.

        The network goes in the background: its record is there until it has gone, whatever becomes of the daemon.
        """
        cri = self._cri
        was_ready = cri.is_ready(sandbox)
        containers = cri.containers_of(sandbox.id)
        try:
            await together(*(self._kill(container) for container in containers))
            # The plugins find the pod's network still there.
            await lifecycle.stop_pod(cri, sandbox)
            if sandbox.user_namespace is not None:
                # The namespace goes with the shim.
                await teardown.end_network(cri, sandbox.id)
            await cri.k8s.sandbox_controller.stop(sandbox.id, teardown.SHIM_SECONDS)
        finally:
            teardown.end_network_later(cri, sandbox.id)
        await together(*(_settle(cri, container) for container in containers))
        if was_ready:
            events.tell_pod(cri, sandbox, events.STOPPED)

    async def _kill(self, container: Container) -> None:
        """What this does not achieve in time, the end of the shim does."""
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await stopping.stop(self._cri, container, 0)
                if container.run.finished_at:
                    await lifecycle.stop_container(self._cri, container)
        except (MoorageError, TimeoutError) as error:
            logger.warning("container %s could not be killed by itself: %r", container.id, error)

    async def _remove(self, sandbox: Sandbox) -> None:
        cri = self._cri
        if sandbox.id not in cri.sandboxes:
            return
        if cri.is_ready(sandbox) or cri.network.stands(sandbox.id):
            await self._stop(sandbox)
        for container in cri.containers_of(sandbox.id):
            await removal.remove(cri, container)
        await cri.k8s.sandbox_controller.shutdown(sandbox.id)
        await teardown.end_namespace(cri, sandbox.id)
        await cri.run(forget, cri, sandbox.id)
        await cri.run(files.remove, cri.sandbox_folder(sandbox.id))
        async with cri.nri.gate:
            await lifecycle.remove_pod(cri, sandbox)
            cri.sandboxes.discard(sandbox.id)
        cri.sandbox_names.release(sandbox.name, sandbox.id)
        events.tell_pod(cri, sandbox, events.DELETED)


async def _settle(cri: Cri, container: Container) -> None:
    """Wait for the news that a container ended with its shim; without it, say that how it ended is not known."""
    if not container.running:
        return
    try:
        async with asyncio.timeout(_SETTLE_SECONDS):
            await container.stopped.wait()
    except TimeoutError:
        stopping.lost(container)
        ended(cri, container)
