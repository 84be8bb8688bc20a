"""`containerd.services.leases.v1`."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import lease_to_wire, resource_from_wire, resource_to_wire
from moorage_api.core import Core
from moorage_api.rpc import Call, Service
from moorage_api.wire import leases_pb2 as pb
from mooraged.services.handlers import Handlers


class Leases(Handlers):
    """The handlers."""

    async def Create(self, request: pb.CreateRequest, call: Call) -> pb.CreateResponse:
        lease = await self._run(call, lambda space: space.leases.create(request.id, dict(request.labels)))
        return pb.CreateResponse(lease=lease_to_wire(lease))

    async def Delete(self, request: pb.DeleteRequest, call: Call) -> Empty:
        await self._run(call, lambda space: space.leases.delete(request.id, sync=request.sync))
        return Empty()

    async def List(self, request: pb.ListRequest, call: Call) -> pb.ListResponse:
        leases = await self._run(call, lambda space: space.leases.list(list(request.filters)))
        return pb.ListResponse(leases=map(lease_to_wire, leases))

    async def AddResource(self, request: pb.AddResourceRequest, call: Call) -> Empty:
        resource = resource_from_wire(request.resource)
        await self._run(call, lambda space: space.leases.add_resource(request.id, resource))
        return Empty()

    async def DeleteResource(self, request: pb.DeleteResourceRequest, call: Call) -> Empty:
        resource = resource_from_wire(request.resource)
        await self._run(call, lambda space: space.leases.delete_resource(request.id, resource))
        return Empty()

    async def ListResources(self, request: pb.ListResourcesRequest, call: Call) -> pb.ListResourcesResponse:
        resources = await self._run(call, lambda space: space.leases.resources(request.id))
        return pb.ListResourcesResponse(resources=map(resource_to_wire, resources))


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Leases"], Leases(core))
