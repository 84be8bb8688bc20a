"""`containerd.services.events.v1`.

A caller that names a namespace hears and tells what happens in it, and nothing of the others; one that names none, as
a monitor of the whole node may, hears all. Two headers ask for what is past, and for an end (`moorage_api.events`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import envelope_from_wire, envelope_to_wire
from moorage_api.errors import InvalidArgument, PermissionDenied
from moorage_api.events import SINCE_HEADER, UNTIL_HEADER, Envelope, EventBus, Subscription
from moorage_api.filters import parse
from moorage_api.rpc import NAMESPACE_HEADER, Call, Encoded, Service
from moorage_api.types import TypedValue
from moorage_api.wire import events_pb2 as pb

_SECOND = 1_000_000_000
_DIGITS = 19


class Events:
    """The handlers."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._told: tuple[Envelope, Encoded] | None = None

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

    async def Subscribe(self, request: pb.SubscribeRequest, call: Call) -> AsyncIterator[Encoded]:
        filters = list(request.filters)
        if _names_one(call):
            parse(filters)  # for an error that shows the filter as the caller wrote it
            filters = _within(call.namespace, filters)
        since, until = _moment(call, SINCE_HEADER), _moment(call, UNTIL_HEADER)
        async with aclosing(self._bus.subscribe(filters, since)) as events:
            async for envelope in events if until is None else _before(until, events):
                yield self._encoded(envelope)

    def _encoded(self, envelope: Envelope) -> Encoded:
        """As it goes over the wire. All subscribers hear of it one right after the other: it is serialised once."""
        if self._told is None or self._told[0] is not envelope:
            self._told = envelope, Encoded(envelope_to_wire(envelope).SerializeToString())
        return self._told[1]


async def _before(until: int, events: Subscription) -> AsyncIterator[Envelope]:
    """Events up to a time (Unix nanoseconds). What is queued already comes also where that is past."""
    with suppress(TimeoutError, StopAsyncIteration):
        while True:
            async with asyncio.timeout((until - time.time_ns()) / _SECOND):
                envelope = await anext(events)
            if envelope.timestamp <= until:
                yield envelope


def _moment(call: Call, header: str) -> int | None:
    """Unix nanoseconds. `InvalidArgument`."""
    text = call.metadata.get(header, "")
    if text and not (text.isdecimal() and len(text) <= _DIGITS):
        raise InvalidArgument(f"the header {header} is {text[:40]!r}: expected Unix nanoseconds")
    return int(text) if text else None


def _within(namespace: str, filters: Sequence[str]) -> list[str]:
    """The same filters, for one namespace only."""
    only = f'namespace=="{namespace}"'
    return [f"{only},{filter}" if filter else only for filter in filters or [""]]


def _names_one(call: Call) -> bool:
    return bool(call.metadata.get(NAMESPACE_HEADER))


def service(bus: EventBus) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Events"], Events(bus))
