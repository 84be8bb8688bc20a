"""`containerd.services.diff.v1`."""

from __future__ import annotations

from moorage_api.convert import descriptor_from_wire, descriptor_to_wire, mounts_from_wire
from moorage_api.core import Core
from moorage_api.rpc import Call, Service
from moorage_api.wire import diff_pb2 as pb
from mooraged.services.handlers import Handlers


class Diff(Handlers):
    """The handlers."""

    async def Apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        layer, mounts = descriptor_from_wire(request.diff), mounts_from_wire(request.mounts)
        differ = self._core.differ
        applied = await self._run(call, lambda space: differ.apply(space.content, layer, mounts, sync=request.sync_fs))
        return pb.ApplyResponse(applied=descriptor_to_wire(applied))

    async def Diff(self, request: pb.DiffRequest, call: Call) -> pb.DiffResponse:
        left, right = mounts_from_wire(request.left), mounts_from_wire(request.right)
        differ, labels = self._core.differ, dict(request.labels)
        layer = await self._run(
            call,
            lambda space: differ.compare(
                space.content, left, right, media_type=request.media_type, ref=request.ref, labels=labels
            ),
        )
        return pb.DiffResponse(diff=descriptor_to_wire(layer))


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Diff"], Diff(core))
