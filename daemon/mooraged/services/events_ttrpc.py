"""`containerd.services.events.ttrpc.v1`: where shims forward their events to."""

from __future__ import annotations

from typing import Protocol

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import envelope_from_wire
from moorage_api.events import Envelope
from moorage_api.rpc import Call, Service
from moorage_api.wire import events_ttrpc_pb2 as pb


class Taker(Protocol):
    """Who takes the events of shims: the runtime."""

    async def forward(self, envelope: Envelope) -> None: ...


class ShimEvents:
    """The handler."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    async def Forward(self, request: pb.ForwardRequest, call: Call) -> Empty:
        await self._taker.forward(envelope_from_wire(request.envelope))
        return Empty()


def service(taker: Taker) -> Service:
    """What the daemon serves on its ttrpc socket."""
    return Service(pb.DESCRIPTOR.services_by_name["Events"], ShimEvents(taker))
