"""`containerd.services.snapshots.v1`; each request names its snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from google.protobuf.empty_pb2 import Empty

from moorage_api.core import Core
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.remote.answers import SnapshotAnswers
from moorage_api.rpc import Call, Encoded, Service
from moorage_api.snapshots import Kind, Snapshotter, is_prompt
from moorage_api.wire import snapshots_pb2 as pb
from mooraged.services.handlers import Handlers

T = TypeVar("T")


class Named(Protocol):
    """A request that says whose snapshots are meant: all of them do."""

    @property
    def snapshotter(self) -> str: ...


@runtime_checkable
class Listed(Protocol):
    """What a snapshotter does beside its contract that has the answer to `List` near at hand."""

    def listed(self) -> Iterator[Encoded]:
        """All snapshots, as `walk` gives them, in messages of a list."""


class Snapshots(Handlers):
    """The handlers: those of `SnapshotAnswers` on what the caller's namespace has of the snapshotter.

    What is answered from memory, or by a row of the database, is answered here and now: to wake a thread for it takes several
    times as long (0.1 ms, against 0.02).
    """

    async def Prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> pb.PrepareSnapshotResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.Prepare(request))

    async def View(self, request: pb.ViewSnapshotRequest, call: Call) -> pb.ViewSnapshotResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.View(request))

    async def Mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.Mounts(request))

    def Mounts_at_once(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse | None:
        snapshotter = self._snapshotter(call, request)
        return SnapshotAnswers(snapshotter).Mounts(request) if is_prompt(snapshotter) else None

    async def Commit(self, request: pb.CommitSnapshotRequest, call: Call) -> Empty:
        return await self._answer(call, request, lambda snapshots: snapshots.Commit(request))

    async def Remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> Empty:
        return await self._answer(call, request, lambda snapshots: snapshots.Remove(request))

    async def Stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.Stat(request))

    def Stat_at_once(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        return SnapshotAnswers(self._snapshotter(call, request)).Stat(request)

    async def Update(self, request: pb.UpdateSnapshotRequest, call: Call) -> pb.UpdateSnapshotResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.Update(request))

    async def List(
        self, request: pb.ListSnapshotsRequest, call: Call
    ) -> AsyncIterator[pb.ListSnapshotsResponse | Encoded]:
        # A page is made when the one before is on its way.
        snapshotter = self._snapshotter(call, request)
        if isinstance(snapshotter, Listed) and not request.filters:
            for encoded in await self._core.run(snapshotter.listed):
                yield encoded
            return
        for page in await self._answer(call, request, lambda snapshots: snapshots.List(request)):
            yield page

    async def Usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse:
        return await self._answer(call, request, lambda snapshots: snapshots.Usage(request))

    def Usage_at_once(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse | None:
        snapshotter = self._snapshotter(call, request)
        if is_prompt(snapshotter) and snapshotter.stat(request.key).kind is Kind.COMMITTED:
            return SnapshotAnswers(snapshotter).Usage(request)
        return None

    async def Cleanup(self, request: pb.CleanupRequest, call: Call) -> Empty:
        return await self._answer(call, request, lambda snapshots: snapshots.Cleanup(request))

    async def _answer(self, call: Call, request: Named, answer: Callable[[SnapshotAnswers], T]) -> T:
        """The answer, made in a thread."""
        return await self._core.run(answer, SnapshotAnswers(self._snapshotter(call, request)))

    def _snapshotter(self, call: Call, request: Named) -> Snapshotter:
        """The snapshotter that a request names; on the wire, one that is not there is an invalid argument."""
        if not request.snapshotter:
            raise InvalidArgument("the request names no snapshotter")
        try:
            return self._core.namespaced(call.namespace, call.lease).snapshotter(request.snapshotter)
        except NotFound as error:
            raise InvalidArgument(str(error)) from error


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Snapshots"], Snapshots(core))
