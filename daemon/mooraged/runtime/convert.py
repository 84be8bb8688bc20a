"""Between the messages of the wire and the values of the contracts."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from moorage_api.mounts import Mount
from moorage_api.runtime import Exit, Status
from moorage_api.types import TypedValue
from moorage_api.wire import shim_v3_pb2, types_pb2

_NANOSECONDS = 1_000_000_000


def timestamp(nanoseconds: int) -> Timestamp | None:
    """A time; None, which means "not set", for zero."""
    if not nanoseconds:
        return None
    return Timestamp(seconds=nanoseconds // _NANOSECONDS, nanos=nanoseconds % _NANOSECONDS)


def nanoseconds(time: Timestamp) -> int:
    """Unix time in nanoseconds. Go's zero time, which some shims send for "not yet", is zero here too."""
    return max(0, time.seconds * _NANOSECONDS + time.nanos)


def any_message(value: TypedValue | None) -> AnyMessage | None:
    return None if value is None else AnyMessage(type_url=value.type_url, value=value.value)


def typed_value(message: AnyMessage) -> TypedValue:
    return TypedValue(message.type_url, message.value)


def mount_messages(mounts: Iterable[Mount]) -> list[types_pb2.Mount]:
    return [types_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options) for m in mounts]


def status(number: int) -> Status:
    """A number that this version does not know is UNKNOWN."""
    return Status(number) if number in Status.__members__.values() else Status.UNKNOWN


def exit_of(answer: shim_v3_pb2.DeleteResponse) -> Exit:
    return Exit(answer.exit_status, nanoseconds(answer.exited_at), answer.pid)
