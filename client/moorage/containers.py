"""The container records of a namespace (`containerd.services.containers.v1`)."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.convert import from_container, mask, to_container
from moorage.session import Session
from moorage_api.containers import Container
from moorage_api.wire import containers_pb2 as wire
from moorage_api.wire.containers_pb2_grpc import ContainersStub


class Containers:
    """Records of what may run. The methods and their errors are those of `moorage_api.containers.ContainerStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = ContainersStub(session.channel)

    async def get(self, id: str) -> Container:
        """`NotFound`."""
        response = await self._session.call(self._stub.Get, wire.GetContainerRequest(id=id))
        return from_container(response.container)

    async def list(self, *filters: str) -> list[Container]:
        """Those that match any of the filters (containerd's filter grammar); without filters all."""
        response = await self._session.call(self._stub.List, wire.ListContainersRequest(filters=filters))
        return [from_container(container) for container in response.containers]

    async def create(self, container: Container) -> Container:
        """`AlreadyExists` for the id or the name, `InvalidArgument`."""
        request = wire.CreateContainerRequest(container=to_container(container))
        return from_container((await self._session.call(self._stub.Create, request)).container)

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """All mutable fields, or those named (`labels.KEY`, …). `NotFound`."""
        request = wire.UpdateContainerRequest(container=to_container(container), update_mask=mask(list(fieldpaths)))
        return from_container((await self._session.call(self._stub.Update, request)).container)

    async def delete(self, id: str) -> None:
        """`NotFound`."""
        await self._session.call(self._stub.Delete, wire.DeleteContainerRequest(id=id))
