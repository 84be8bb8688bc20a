"""`containerd.services.events.v1`.

A caller that names a namespace hears and tells what happens in it, and nothing of the others; one that names none, as
a monitor of the whole node may, hears all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import envelope_from_wire, envelope_to_wire
from moorage_api.errors import PermissionDenied
from moorage_api.events import Envelope, EventBus
from moorage_api.filters import parse
from moorage_api.rpc import NAMESPACE_HEADER, Call, Service
from moorage_api.types import TypedValue
from moorage_api.wire import events_pb2 as pb
from moorage_api.wire import types_pb2


class Events:
    """The handlers."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def Publish(self, request: pb.PublishRequest, call: Call) -> Empty:
        event = TypedValue(request.event.type_url, request.event.value)
        self._bus.forward(Envelope(time.time_ns(), call.namespace, request.topic, event))
        return Empty()

    async def Forward(self, request: pb.ForwardRequest, call: Call) -> Empty:
        envelope = envelope_from_wire(request.envelope)
        if _names_one(call) and call.namespace != envelope.namespace:
            raise PermissionDenied(f"an event of another namespace than {call.namespace!r} cannot be forwarded")
        self._bus.forward(envelope)
        return Empty()

    async def Subscribe(self, request: pb.SubscribeRequest, call: Call) -> AsyncIterator[types_pb2.Envelope]:
        filters = list(request.filters)
        if _names_one(call):
            parse(filters)  # for an error that shows the filter as the caller wrote it
            filters = _within(call.namespace, filters)
        async with aclosing(self._bus.subscribe(filters)) as events:
            async for envelope in events:
                yield envelope_to_wire(envelope)


def _within(namespace: str, filters: Sequence[str]) -> list[str]:
    """The same filters, for one namespace only."""
    only = f'namespace=="{namespace}"'
    return [f"{only},{filter}" if filter else only for filter in filters or [""]]


def _names_one(call: Call) -> bool:
    return bool(call.metadata.get(NAMESPACE_HEADER))


def service(bus: EventBus) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Events"], Events(bus))
