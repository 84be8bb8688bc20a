"""What happens in a daemon, as it happens (`containerd.services.events.v1`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from google.protobuf import json_format, symbol_database
from google.protobuf.message import DecodeError, Message

from moorage.convert import from_any, nanoseconds
from moorage.session import Session
from moorage_api.events import Envelope
from moorage_api.types import TypedValue
from moorage_api.wire import events_pb2 as wire
from moorage_api.wire.events_pb2_grpc import EventsStub


class Events:
    """Events from the moment of asking; nothing is replayed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = EventsStub(session.channel)

    async def subscribe(self, *filters: str) -> AsyncIterator[Envelope]:
        """Events that match any of the filters (`topic=="/tasks/exit"`, `namespace==default`), without end.

        The events of every namespace arrive unless a filter says otherwise. `ResourceExhausted` for a reader that is
        too slow; closing the iterator ends the subscription.
        """
        async for message in self._session.stream(self._stub.Subscribe, wire.SubscribeRequest(filters=filters)):
            yield Envelope(
                timestamp=nanoseconds(message.timestamp),
                namespace=message.namespace,
                topic=message.topic,
                event=from_any(message.event),
            )


def decode_event(event: TypedValue) -> dict[str, Any]:
    """The fields of an event, as JSON has them; a type that is not known gives `{"type_url": …}` alone."""
    kind = _event_class(event.type_url.rpartition("/")[2])
    if kind is None:
        return {"type_url": event.type_url}
    message = kind()
    try:
        message.ParseFromString(event.value)
    except DecodeError:
        return {"type_url": event.type_url}
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@cache
def _event_class(name: str) -> type[Message] | None:
    import moorage_api.wire.events_types_pb2  # noqa: F401 - its import registers the types of events

    try:
        return symbol_database.Default().GetSymbol(name)
    except KeyError:
        return None
