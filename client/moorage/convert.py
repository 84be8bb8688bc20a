"""Between the messages of the wire and the dataclasses of the contracts."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from moorage_api import content, snapshots
from moorage_api.containers import Container, Runtime
from moorage_api.images import Image
from moorage_api.leases import Lease
from moorage_api.mounts import Mount
from moorage_api.runtime import Process, Status, Stdio
from moorage_api.types import Descriptor, Platform, TypedValue
from moorage_api.wire import (
    containers_pb2,
    content_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
    task_types_pb2,
    types_pb2,
)

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


def from_image(message: images_pb2.Image) -> Image:
    return Image(
        name=message.name,
        target=from_descriptor(message.target),
        labels=dict(message.labels),
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )


def to_image(value: Image) -> images_pb2.Image:
    return images_pb2.Image(name=value.name, target=to_descriptor(value.target), labels=dict(value.labels))


def from_container(message: containers_pb2.Container) -> Container:
    options = from_any(message.runtime.options) if message.runtime.HasField("options") else None
    return Container(
        id=message.id,
        runtime=Runtime(message.runtime.name, options),
        spec=from_any(message.spec) if message.HasField("spec") else None,
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        labels=dict(message.labels),
        extensions={key: from_any(value) for key, value in message.extensions.items()},
        sandbox_id=message.sandbox,
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )


def to_container(value: Container) -> containers_pb2.Container:
    message = containers_pb2.Container(
        id=value.id,
        labels=dict(value.labels),
        image=value.image,
        runtime=containers_pb2.Container.Runtime(name=value.runtime.name, options=to_any(value.runtime.options)),
        spec=to_any(value.spec),
        snapshotter=value.snapshotter,
        snapshot_key=value.snapshot_key,
        sandbox=value.sandbox_id,
    )
    for key, extension in value.extensions.items():
        message.extensions[key].CopyFrom(Any(type_url=extension.type_url, value=extension.value))
    return message


def from_lease(message: leases_pb2.Lease) -> Lease:
    return Lease(message.id, dict(message.labels), nanoseconds(message.created_at))


def from_content_info(message: content_pb2.Info) -> content.Info:
    return content.Info(
        digest=message.digest,
        size=message.size,
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
        labels=dict(message.labels),
    )


def from_ingest(message: content_pb2.Status) -> content.IngestStatus:
    return content.IngestStatus(
        ref=message.ref,
        offset=message.offset,
        total=message.total,
        expected=message.expected,
        started_at=nanoseconds(message.started_at),
        updated_at=nanoseconds(message.updated_at),
    )


_KINDS = {
    snapshots_pb2.VIEW: snapshots.Kind.VIEW,
    snapshots_pb2.ACTIVE: snapshots.Kind.ACTIVE,
    snapshots_pb2.COMMITTED: snapshots.Kind.COMMITTED,
}


def from_snapshot(message: snapshots_pb2.Info) -> snapshots.Info:
    return snapshots.Info(
        name=message.name,
        kind=_KINDS[message.kind],
        parent=message.parent,
        labels=dict(message.labels),
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )


def from_process(message: task_types_pb2.Process) -> Process:
    """`container_id` is empty on the wire for a container's first process in some daemons: the id is then its own."""
    own = not message.container_id or message.container_id == message.id
    return Process(
        container_id=message.id if own else message.container_id,
        exec_id="" if own else message.id,
        pid=message.pid,
        status=Status(message.status),
        stdio=Stdio(message.stdin, message.stdout, message.stderr, message.terminal),
        exit_status=message.exit_status,
        exited_at=nanoseconds(message.exited_at),
    )
