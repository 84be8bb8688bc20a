"""`moorage.gc.v1.Garbage`: what is on disk, who keeps it, what a collection would remove."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from moorage_api.core import Core
from moorage_api.garbage import Doomed, Garbage, Holding
from moorage_api.rpc import Call, Service
from moorage_api.wire import moorage_gc_pb2 as pb

_PAGE = 500
T = TypeVar("T")


class Answers:
    """The handlers."""

    def __init__(self, core: Core, garbage: Garbage) -> None:
        self._core = core
        self._garbage = garbage

    async def Holdings(self, request: pb.HoldingsRequest, call: Call) -> AsyncIterator[pb.HoldingsResponse]:
        namespace = "" if request.all_namespaces else call.namespace
        for page in _pages(await self._core.run(self._garbage.holdings, namespace)):
            yield pb.HoldingsResponse(holdings=map(_holding, page))

    async def Plan(self, request: pb.PlanRequest, call: Call) -> AsyncIterator[pb.PlanResponse]:
        for page in _pages(await self._core.run(self._garbage.plan)):
            yield pb.PlanResponse(doomed=map(_doomed, page))

    async def Collect(self, request: pb.CollectRequest, call: Call) -> pb.CollectResponse:
        done = await self._core.run(self._garbage.collect)
        return pb.CollectResponse(
            records=done.records,
            blobs=done.blobs,
            blob_bytes=done.blob_bytes,
            ingests=done.ingests,
            snapshots=done.snapshots,
            seconds=done.seconds,
        )


def _pages(found: Sequence[T]) -> Iterator[Sequence[T]]:
    return (found[start : start + _PAGE] for start in range(0, len(found), _PAGE))


def _holding(holding: Holding) -> pb.Holding:
    keepers = [pb.Keeper(kind=keeper.kind, namespace=keeper.namespace, name=keeper.name) for keeper in holding.keepers]
    return pb.Holding(kind=holding.kind, store=holding.store, name=holding.name, size=holding.size, keepers=keepers)


def _doomed(doomed: Doomed) -> pb.Doomed:
    return pb.Doomed(kind=doomed.kind, namespace=doomed.namespace, name=doomed.name, size=doomed.size, why=doomed.why)


def service(core: Core, garbage: Garbage) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Garbage"], Answers(core, garbage))
