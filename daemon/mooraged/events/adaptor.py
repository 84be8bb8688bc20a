"""What a filter sees of an event: `namespace`, `topic`, and the fields of the payload as `event.FIELD`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from moorage_api.events import Envelope
from moorage_api.wire import events_types_pb2

# The import makes the payloads known to the pool in which type URLs are looked up.
_POOL = descriptor_pool.Default()
assert events_types_pb2.DESCRIPTOR is not None


class EnvelopeAdaptor:
    """A `moorage_api.filters.Adaptor` of one event; the payload is decoded at most once, and only if asked for."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def __call__(self, path: Sequence[str]) -> str | None:
        match path:
            case ["namespace"]:
                return self._envelope.namespace or None
            case ["topic"]:
                return self._envelope.topic or None
            case ["event", first, *rest]:
                return None if self._payload is None else _lookup(self._payload, first, rest)
        return None

    @cached_property
    def _payload(self) -> Message | None:
        """The payload, or None for a type that is not known here or bytes that are not of it: such fields are absent."""
        name = self._envelope.event.type_url.rpartition("/")[2]
        try:
            descriptor = _POOL.FindMessageTypeByName(name)
            return GetMessageClass(descriptor).FromString(self._envelope.event.value)
        except (KeyError, DecodeError):
            return None


def _lookup(message: Message, name: str, rest: Sequence[str]) -> str | None:
    """The value of a field path; the rest of a path into a map is one key, dots and all (`labels.io.x.y`)."""
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        return None
    value = getattr(message, name)
    if isinstance(value, Mapping):
        found = value.get(".".join(rest))
        return found if isinstance(found, str) and found else None
    if isinstance(value, Message):
        return _lookup(value, rest[0], rest[1:]) if rest and message.HasField(name) else None
    if field.is_repeated or rest:
        return None
    return str(value) or None
