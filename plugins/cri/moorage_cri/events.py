"""What happens to pods and containers, told to the readers of GetContainerEvents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri import feed
from moorage_cri.container import status as container_status
from moorage_cri.context import Cri
from moorage_cri.model import Container, Sandbox
from moorage_cri.sandbox import status as sandbox_status

Type: TypeAlias = "cri_pb2.ContainerEventType.ValueType"
CREATED = cri_pb2.CONTAINER_CREATED_EVENT
STARTED = cri_pb2.CONTAINER_STARTED_EVENT
STOPPED = cri_pb2.CONTAINER_STOPPED_EVENT
DELETED = cri_pb2.CONTAINER_DELETED_EVENT


class GetContainerEvents:
    """Tells what happens from the moment of the call on."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def GetContainerEvents(
        self, request: cri_pb2.GetEventsRequest, call: Call
    ) -> AsyncIterator[cri_pb2.ContainerEventResponse]:
        with self._cri.feed.subscribe() as events:
            async for event in events:
                yield event


def tell(cri: Cri, container: Container, type: Type) -> None:
    """Something happened to a container; what it is can be read by now."""
    cri.feed.publish(lambda: _event(cri, container.id, container.sandbox_id, type))


def tell_pod(cri: Cri, sandbox: Sandbox, type: Type) -> None:
    """Something happened to a pod. It is told as of a container with the pod's id."""
    cri.feed.publish(lambda: _event(cri, sandbox.id, sandbox.id, type))


def _event(cri: Cri, id: str, sandbox_id: str, type: Type) -> cri_pb2.ContainerEventResponse:
    pod = sandbox_status.message(cri, cri.sandboxes.get(sandbox_id)) if sandbox_id in cri.sandboxes else None
    containers = [container_status.message(cri, each) for each in cri.containers_of(sandbox_id)]
    return feed.response(id, type, pod, containers)
