"""What happens in a daemon, as it happens (`containerd.services.events.v1`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import cache
from typing import Any

from google.protobuf import any_pb2, json_format, symbol_database
from google.protobuf.message import DecodeError, Message

from moorage.convert import from_any, nanoseconds
from moorage.introspection import Introspection
from moorage.session import Session
from moorage_api.errors import FailedPrecondition
from moorage_api.events import HISTORY_EXPORT, SINCE_HEADER, UNTIL_HEADER, Envelope
from moorage_api.types import TypedValue
from moorage_api.wire import events_pb2 as wire
from moorage_api.wire.events_pb2_grpc import EventsStub

_PLUGIN = "type==io.containerd.event.v1"


class Events:
    """Events from the moment of asking, or from an earlier one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = EventsStub(session.channel)

    async def subscribe(
        self, *filters: str, since: int | None = None, until: int | None = None, everywhere: bool = False
    ) -> AsyncGenerator[Envelope, None]:
        """Events that match any of the filters (`topic=="/tasks/exit"`, `event.container_id==web`), without end.

        Those of the client's namespace arrive, with `everywhere` those of all namespaces. With `since` (Unix nanoseconds)
        what the daemon still keeps of the events since then comes first; with `until` they end then. `FailedPrecondition`
        where the daemon knows neither, `ResourceExhausted` for a reader that is too slow; closing the iterator ends the
        subscription.
        """
        bounds = {SINCE_HEADER: since, UNTIL_HEADER: until}
        headers = {name: str(moment) for name, moment in bounds.items() if moment is not None}
        if headers:
            await self._check_history()
        own = "" if everywhere else f"namespace=={self._session.namespace}"
        wanted = [",".join(part for part in (own, filter) if part) for filter in filters or ("",)]
        request = wire.SubscribeRequest(filters=[filter for filter in wanted if filter])
        session = replace(self._session, namespace="") if everywhere else self._session
        async for message in session.stream(self._stub.Subscribe, request, headers=headers):
            yield Envelope(
                timestamp=nanoseconds(message.timestamp),
                namespace=message.namespace,
                topic=message.topic,
                event=from_any(message.event),
            )

    async def _check_history(self) -> None:
        plugins = await Introspection(self._session).plugins(_PLUGIN)
        if not any(HISTORY_EXPORT in plugin.exports for plugin in plugins):
            raise FailedPrecondition("this daemon tells what happens from now on, and without end: it is not Moorage's")


def decode_event(event: TypedValue) -> dict[str, Any]:
    """The fields of an event, as JSON has them, without those in it whose type is not known; an event whose own type is not
    known gives `{"type_url": …}` alone."""
    kind = _event_class(event.type_url.rpartition("/")[2])
    if kind is None:
        return {"type_url": event.type_url}
    message = kind()
    try:
        message.ParseFromString(event.value)
    except DecodeError:
        return {"type_url": event.type_url}
    _forget_unknown(message)
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _forget_unknown(message: Message) -> None:
    """Clear the fields that hold a message of a type that is not known here, such as the options of another runtime."""
    for field, value in message.ListFields():
        if isinstance(value, any_pb2.Any) and not _is_known(value):
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _forget_unknown(value)


def _is_known(value: any_pb2.Any) -> bool:
    kind = _event_class(value.type_url.rpartition("/")[2])
    try:
        return kind is not None and kind().ParseFromString(value.value) is not None
    except DecodeError:
        return False


@cache
def _event_class(name: str) -> type[Message] | None:
    # Their import registers the types of events.
    import moorage_api.wire.events_types_pb2
    import moorage_api.wire.images_pb2  # noqa: F401

    try:
        return symbol_database.Default().GetSymbol(name)
    except KeyError:
        return None
