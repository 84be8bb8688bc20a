"""What is on disk, who keeps it, and what a collection would remove (`moorage.gc.v1`)."""

from __future__ import annotations

from moorage.session import Session
from moorage_api.garbage import Collected, Doomed, Holding, Keeper
from moorage_api.wire import moorage_gc_pb2 as wire
from moorage_api.wire.moorage_gc_pb2_grpc import GarbageStub


class Garbage:
    """Questions to the daemon's collector, as in `moorage_api.garbage.Garbage`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = GarbageStub(session.channel)

    async def holdings(self, *, all_namespaces: bool = False) -> list[Holding]:
        """What the namespace has on disk, largest first; with `all_namespaces` all that is there."""
        request = wire.HoldingsRequest(all_namespaces=all_namespaces)
        return [
            _from_holding(holding)
            async for page in self._session.stream(self._stub.Holdings, request)
            for holding in page.holdings
        ]

    async def plan(self) -> list[Doomed]:
        """What a collection would remove now, in all namespaces."""
        return [
            Doomed(doomed.kind, doomed.namespace, doomed.name, doomed.size, doomed.why)
            async for page in self._session.stream(self._stub.Plan, wire.PlanRequest())
            for doomed in page.doomed
        ]

    async def collect(self) -> Collected:
        """Collect now; what is reported is gone when this returns."""
        done = await self._session.call(self._stub.Collect, wire.CollectRequest(), timeout=None)
        return Collected(dict(done.records), done.blobs, done.blob_bytes, done.ingests, done.snapshots, done.seconds)


def _from_holding(message: wire.Holding) -> Holding:
    keepers = tuple(Keeper(keeper.kind, keeper.namespace, keeper.name) for keeper in message.keepers)
    return Holding(message.kind, message.store, message.name, message.size, keepers)
