"""`containerd.services.mounts.v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import fieldpaths, mounts_from_wire, mounts_to_wire, timestamp
from moorage_api.core import Core
from moorage_api.mounts import Activation, MountManager
from moorage_api.rpc import Call, Service
from moorage_api.wire import mounts_pb2 as pb
from moorage_api.wire import types_pb2


class Mounts:
    """The handlers."""

    def __init__(self, core: Core, manager: MountManager) -> None:
        self._core = core
        self._manager = manager

    async def Activate(self, request: pb.ActivateRequest, call: Call) -> pb.ActivateResponse:
        activation = await self._core.run(
            self._manager.activate,
            call.namespace,
            request.name,
            mounts_from_wire(request.mounts),
            dict(request.labels),
            temporary=request.temporary,
        )
        return pb.ActivateResponse(info=activation_to_wire(activation))

    async def Deactivate(self, request: pb.DeactivateRequest, call: Call) -> Empty:
        await self._core.run(self._manager.deactivate, call.namespace, request.name)
        return Empty()

    async def Info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        found = await self._core.run(self._manager.info, call.namespace, request.name)
        return pb.InfoResponse(info=activation_to_wire(found))

    async def Update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        given = Activation(request.info.name, labels=dict(request.info.labels))
        paths = fieldpaths(request.update_mask)
        changed = await self._core.run(self._manager.update, call.namespace, given, paths)
        return pb.UpdateResponse(info=activation_to_wire(changed))

    async def List(self, request: pb.ListRequest, call: Call) -> AsyncIterator[pb.ListMessage]:
        for found in await self._core.run(self._manager.list, call.namespace, list(request.filters)):
            yield pb.ListMessage(info=activation_to_wire(found))


def activation_to_wire(activation: Activation) -> types_pb2.ActivationInfo:
    active = [
        types_pb2.ActiveMount(
            mount=mounts_to_wire([each.mount])[0],
            mounted_at=timestamp(each.mounted_at),
            mount_point=each.mount_point,
        )
        for each in activation.active
    ]
    return types_pb2.ActivationInfo(
        name=activation.name, active=active, system=mounts_to_wire(activation.system), labels=activation.labels
    )


def service(core: Core, manager: MountManager) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Mounts"], Mounts(core, manager))
