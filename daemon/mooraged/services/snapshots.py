"""`containerd.services.snapshots.v1`; each request names its snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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

    def Prepare(self, request: pb.PrepareSnapshotRequest, call: Call) -> Awaitable[pb.PrepareSnapshotResponse]:
        return self._answer(call, request, lambda snapshots: snapshots.Prepare(request))

    def View(self, request: pb.ViewSnapshotRequest, call: Call) -> Awaitable[pb.ViewSnapshotResponse]:
        return self._answer(call, request, lambda snapshots: snapshots.View(request))

    def Mounts(self, request: pb.MountsRequest, call: Call) -> pb.MountsResponse | Awaitable[pb.MountsResponse]:
        snapshotter = self._snapshotter(call, request)
        answers = SnapshotAnswers(snapshotter)
        return answers.Mounts(request) if is_prompt(snapshotter) else self._core.run(answers.Mounts, request)

    def Commit(self, request: pb.CommitSnapshotRequest, call: Call) -> Awaitable[Empty]:
        return self._answer(call, request, lambda snapshots: snapshots.Commit(request))

    def Remove(self, request: pb.RemoveSnapshotRequest, call: Call) -> Awaitable[Empty]:
        return self._answer(call, request, lambda snapshots: snapshots.Remove(request))

    def Stat(self, request: pb.StatSnapshotRequest, call: Call) -> pb.StatSnapshotResponse:
        return SnapshotAnswers(self._snapshotter(call, request)).Stat(request)

    def Update(self, request: pb.UpdateSnapshotRequest, call: Call) -> Awaitable[pb.UpdateSnapshotResponse]:
        return self._answer(call, request, lambda snapshots: snapshots.Update(request))

    async def List(
        self, request: pb.ListSnapshotsRequest, call: Call
    ) -> AsyncIterator[pb.ListSnapshotsResponse | Encoded]:
        # A page is made when the one before is on its way.
        snapshotter = self._snapshotter(call, request)
        if isinstance(snapshotter, Listed) and not request.filters:
            for encoded in await self._core.run(snapshotter.listed):
                yield encoded
            return
        for page in await self._core.run(SnapshotAnswers(snapshotter).List, request):
            yield page

    def Usage(self, request: pb.UsageRequest, call: Call) -> pb.UsageResponse | Awaitable[pb.UsageResponse]:
        snapshotter = self._snapshotter(call, request)
        answers = SnapshotAnswers(snapshotter)
        if is_prompt(snapshotter) and snapshotter.stat(request.key).kind is Kind.COMMITTED:
            return answers.Usage(request)
        return self._core.run(answers.Usage, request)

    def Cleanup(self, request: pb.CleanupRequest, call: Call) -> Awaitable[Empty]:
        return self._answer(call, request, lambda snapshots: snapshots.Cleanup(request))

    def _answer(self, call: Call, request: Named, answer: Callable[[SnapshotAnswers], T]) -> Awaitable[T]:
        """The answer, made in a thread."""
        return self._core.run(answer, SnapshotAnswers(self._snapshotter(call, request)))

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
