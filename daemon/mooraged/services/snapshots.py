"""`containerd.services.snapshots.v1`; each request names its snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import fieldpaths, mounts_to_wire, pages, snapshot_from_wire, snapshot_to_wire
from moorage_api.core import Core, Namespaced
from moorage_api.errors import InvalidArgument, NotFound, Unimplemented
from moorage_api.rpc import Call, Service
from moorage_api.snapshots import Snapshotter
from moorage_api.wire import snapshots_pb2 as pb
from mooraged.services.handlers import Handlers

T = TypeVar("T")


class Snapshots(Handlers):
    """The handlers."""

    async def Prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> pb.PrepareSnapshotResponse:
        labels = dict(request.labels)
        mounts = await self._on(call, request.snapshotter, lambda s: s.prepare(request.key, request.parent, labels))
        return pb.PrepareSnapshotResponse(mounts=mounts_to_wire(mounts))

    async def View(self, request: pb.ViewSnapshotRequest, call: Call) -> pb.ViewSnapshotResponse:
        labels = dict(request.labels)
        mounts = await self._on(call, request.snapshotter, lambda s: s.view(request.key, request.parent, labels))
        return pb.ViewSnapshotResponse(mounts=mounts_to_wire(mounts))

    async def Mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse:
        mounts = await self._on(call, request.snapshotter, lambda s: s.mounts(request.key))
        return pb.MountsResponse(mounts=mounts_to_wire(mounts))

    async def Commit(self, request: pb.CommitSnapshotRequest, call: Call) -> Empty:
        if request.parent:
            raise Unimplemented("commit onto another parent: no snapshotter here has the capability rebase")
        labels = dict(request.labels)
        await self._on(call, request.snapshotter, lambda s: s.commit(request.name, request.key, labels))
        return Empty()

    async def Remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> Empty:
        await self._on(call, request.snapshotter, lambda s: s.remove(request.key))
        return Empty()

    async def Stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        info = await self._on(call, request.snapshotter, lambda s: s.stat(request.key))
        return pb.StatSnapshotResponse(info=snapshot_to_wire(info))

    async def Update(self, request: pb.UpdateSnapshotRequest, call: Call) -> pb.UpdateSnapshotResponse:
        given, paths = snapshot_from_wire(request.info), fieldpaths(request.update_mask)
        info = await self._on(call, request.snapshotter, lambda s: s.update(given, paths))
        return pb.UpdateSnapshotResponse(info=snapshot_to_wire(info))

    async def List(self, request: pb.ListSnapshotsRequest, call: Call) -> AsyncIterator[pb.ListSnapshotsResponse]:
        filters = list(request.filters)
        for page in pages(await self._on(call, request.snapshotter, lambda s: list(s.walk(filters)))):
            yield pb.ListSnapshotsResponse(info=map(snapshot_to_wire, page))

    async def Usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse:
        usage = await self._on(call, request.snapshotter, lambda s: s.usage(request.key))
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def Cleanup(self, request: pb.CleanupRequest, call: Call) -> Empty:
        await self._on(call, request.snapshotter, lambda s: s.cleanup())
        return Empty()

    async def _on(self, call: Call, name: str, operation: Callable[[Snapshotter], T]) -> T:
        return await self._run(call, lambda space: operation(_snapshotter(space, name)))


def _snapshotter(space: Namespaced, name: str) -> Snapshotter:
    """The snapshotter that a request names; on the wire, one that is not there is an invalid argument."""
    if not name:
        raise InvalidArgument("the request names no snapshotter")
    try:
        return space.snapshotter(name)
    except NotFound as error:
        raise InvalidArgument(str(error)) from error


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Snapshots"], Snapshots(core))
