"""The container records of a namespace (`containerd.services.containers.v1`)."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.any_pb2 import Any

from moorage.convert import from_any, mask, nanoseconds, to_any
from moorage.session import Session
from moorage_api.containers import Container, Runtime
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
        return _from_container(response.container)

    async def list(self, *filters: str) -> list[Container]:
        """Those that match any of the filters (containerd's filter grammar); without filters all."""
        response = await self._session.call(self._stub.List, wire.ListContainersRequest(filters=filters))
        return [_from_container(container) for container in response.containers]

    async def create(self, container: Container) -> Container:
        """`AlreadyExists` for the id or the name, `InvalidArgument`."""
        request = wire.CreateContainerRequest(container=_to_container(container))
        return _from_container((await self._session.call(self._stub.Create, request)).container)

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """All mutable fields, or those named (`labels.KEY`, …). `NotFound`."""
        request = wire.UpdateContainerRequest(container=_to_container(container), update_mask=mask(list(fieldpaths)))
        return _from_container((await self._session.call(self._stub.Update, request)).container)

    async def delete(self, id: str) -> None:
        """`NotFound`."""
        await self._session.call(self._stub.Delete, wire.DeleteContainerRequest(id=id))


def _from_container(message: wire.Container) -> Container:
    options = from_any(message.runtime.options) if message.runtime.HasField("options") else None
    return Container(
        id=message.id,
        runtime=Runtime(message.runtime.name, options),
        spec=from_any(message.spec) if message.HasField("spec") else None,
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        labels=dict(message.labels),
        extensions={key: from_any(value) for key, value in message.extensions.items()},
        sandbox_id=message.sandbox,
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )


def _to_container(value: Container) -> wire.Container:
    message = wire.Container(
        id=value.id,
        labels=dict(value.labels),
        image=value.image,
        runtime=wire.Container.Runtime(name=value.runtime.name, options=to_any(value.runtime.options)),
        spec=to_any(value.spec),
        snapshotter=value.snapshotter,
        snapshot_key=value.snapshot_key,
        sandbox=value.sandbox_id,
    )
    for key, extension in value.extensions.items():
        message.extensions[key].CopyFrom(Any(type_url=extension.type_url, value=extension.value))
    return message
