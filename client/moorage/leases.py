"""The leases of a namespace (`containerd.services.leases.v1`)."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.convert import nanoseconds
from moorage.session import Session
from moorage_api.leases import Lease, Resource
from moorage_api.wire import leases_pb2 as wire
from moorage_api.wire.leases_pb2_grpc import LeasesStub


class Leases:
    """What a lease holds is not collected; the methods and errors are those of `moorage_api.leases.LeaseManager`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = LeasesStub(session.channel)

    async def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        """`AlreadyExists`."""
        response = await self._session.call(self._stub.Create, wire.CreateRequest(id=id, labels=dict(labels or {})))
        return _from_lease(response.lease)

    async def delete(self, id: str, *, sync: bool = False) -> None:
        """End a lease; with `sync`, garbage has been collected when it returns. `NotFound`."""
        await self._session.call(self._stub.Delete, wire.DeleteRequest(id=id, sync=sync))

    async def resources(self, id: str) -> list[Resource]:
        """What the lease holds. `NotFound`."""
        response = await self._session.call(self._stub.ListResources, wire.ListResourcesRequest(id=id))
        return [Resource(resource.id, resource.type) for resource in response.resources]

    async def list(self, *filters: str) -> list[Lease]:
        """Those that match any of the filters; without filters all."""
        response = await self._session.call(self._stub.List, wire.ListRequest(filters=filters))
        return [_from_lease(lease) for lease in response.leases]


def _from_lease(message: wire.Lease) -> Lease:
    return Lease(message.id, dict(message.labels), nanoseconds(message.created_at))
