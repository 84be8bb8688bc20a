"""`containerd.services.containers.v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import container_from_wire, container_to_wire, fieldpaths
from moorage_api.core import Core
from moorage_api.rpc import Call, Service
from moorage_api.wire import containers_pb2 as pb
from mooraged.services.handlers import Handlers


class Containers(Handlers):
    """The handlers."""

    async def Get(self, request: pb.GetContainerRequest, call: Call) -> pb.GetContainerResponse:
        container = await self._run(call, lambda space: space.containers.get(request.id))
        return pb.GetContainerResponse(container=container_to_wire(container))

    async def List(self, request: pb.ListContainersRequest, call: Call) -> pb.ListContainersResponse:
        containers = await self._run(call, lambda space: space.containers.list(list(request.filters)))
        response = pb.ListContainersResponse()
        for container in containers:
            container_to_wire(container, response.containers.add())
        return response

    async def ListStream(self, request: pb.ListContainersRequest, call: Call) -> AsyncIterator[pb.ListContainerMessage]:
        for container in await self._run(call, lambda space: space.containers.list(list(request.filters))):
            yield pb.ListContainerMessage(container=container_to_wire(container))

    async def Create(self, request: pb.CreateContainerRequest, call: Call) -> pb.CreateContainerResponse:
        given = container_from_wire(request.container)
        container = await self._run(call, lambda space: space.containers.create(given))
        return pb.CreateContainerResponse(container=container_to_wire(container))

    async def Update(self, request: pb.UpdateContainerRequest, call: Call) -> pb.UpdateContainerResponse:
        given, paths = container_from_wire(request.container), fieldpaths(request.update_mask)
        container = await self._run(call, lambda space: space.containers.update(given, paths))
        return pb.UpdateContainerResponse(container=container_to_wire(container))

    async def Delete(self, request: pb.DeleteContainerRequest, call: Call) -> Empty:
        await self._run(call, lambda space: space.containers.delete(request.id))
        return Empty()


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Containers"], Containers(core))
