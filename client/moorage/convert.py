"""Between the messages of the wire and the dataclasses of the contracts."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from moorage_api.mounts import Mount
from moorage_api.types import Descriptor, Platform, TypedValue
from moorage_api.wire import types_pb2

_SECOND = 1_000_000_000


def nanoseconds(time: Timestamp) -> int:
    """Unix time in nanoseconds; zero for a time that is not set (and for Go's zero time, which lies before 1970)."""
    value = time.seconds * _SECOND + time.nanos
    return max(value, 0)


def pack(message: Message) -> Any:
    """An Any as containerd makes it: the type URL is the bare full name."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def type_name(value: Any) -> str:
    """The full name of the type in an Any, whatever prefix its URL has."""
    return value.type_url.rpartition("/")[2]


def to_any(value: TypedValue | None) -> Any | None:
    return None if value is None else Any(type_url=value.type_url, value=value.value)


def from_any(value: Any) -> TypedValue:
    return TypedValue(value.type_url, value.value)


def mask(paths: tuple[str, ...] | list[str]) -> FieldMask | None:
    """A field mask, or None for all fields."""
    return FieldMask(paths=paths) if paths else None


def from_descriptor(message: types_pb2.Descriptor) -> Descriptor:
    return Descriptor(message.media_type, message.digest, message.size, dict(message.annotations))


def to_descriptor(value: Descriptor) -> types_pb2.Descriptor:
    return types_pb2.Descriptor(
        media_type=value.media_type, digest=value.digest, size=value.size, annotations=dict(value.annotations)
    )


def to_platform(value: Platform) -> types_pb2.Platform:
    return types_pb2.Platform(
        os=value.os,
        architecture=value.architecture,
        variant=value.variant,
        os_version=value.os_version,
        os_features=value.os_features,
    )


def from_platform(message: types_pb2.Platform) -> Platform:
    return Platform(message.os, message.architecture, message.variant, message.os_version, tuple(message.os_features))


def from_mount(message: types_pb2.Mount) -> Mount:
    return Mount(message.type, message.source, message.target, tuple(message.options))


def to_mount(value: Mount) -> types_pb2.Mount:
    return types_pb2.Mount(type=value.type, source=value.source, target=value.target, options=value.options)
