"""What records keep for the plugin: versioned JSON in their extensions.

A field is added with a default, so that records of an earlier version are read; a change of meaning takes a new
version.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from moorage_api import containers, sandboxes
from moorage_api.errors import DataLoss
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.model import Container, Sandbox

_VERSION = 1
_SANDBOX_URL = "moorage.io/cri/SandboxMetadata"
_CONTAINER_URL = "moorage.io/cri/ContainerMetadata"

M = TypeVar("M", bound=Message)


def encode_sandbox(sandbox: Sandbox) -> TypedValue:
    """The extension of a pod's record."""
    return _encode(
        _SANDBOX_URL,
        {
            "id": sandbox.id,
            "name": sandbox.name,
            "handler": sandbox.handler,
            "createdAt": sandbox.created_at,
            "boot": sandbox.boot,
            "config": _document(sandbox.config),
        },
    )


def decode_sandbox(record: sandboxes.Sandbox) -> Sandbox:
    """The pod of a record. `DataLoss` where its extension is missing or cannot be read."""
    document = _decode(record.extensions.get(labels.SANDBOX_METADATA), f"sandbox {record.id}")
    try:
        return Sandbox(
            id=record.id,
            name=document["name"],
            config=_message(document["config"], cri_pb2.PodSandboxConfig()),
            handler=document["handler"],
            runtime=record.runtime,
            created_at=document["createdAt"],
            boot=document["boot"],
        )
    except (KeyError, TypeError, json_format.ParseError) as error:
        raise DataLoss(f"the metadata of sandbox {record.id} cannot be read: {error}") from error


def encode_container(container: Container) -> TypedValue:
    """The extension of a container's record."""
    return _encode(
        _CONTAINER_URL,
        {
            "id": container.id,
            "name": container.name,
            "createdAt": container.created_at,
            "config": _document(container.config),
            "imageId": container.image_id,
            "logPath": container.log_path,
            "stopSignal": container.stop_signal,
            "user": _document(container.user),
            "restored": container.restored,
        },
    )


def decode_container(record: containers.Container) -> Container:
    """The container of a record, as before its first start. `DataLoss` as `decode_sandbox`."""
    document = _decode(record.extensions.get(labels.CONTAINER_METADATA), f"container {record.id}")
    try:
        return Container(
            id=record.id,
            name=document["name"],
            sandbox_id=record.sandbox_id,
            config=_message(document["config"], cri_pb2.ContainerConfig()),
            image_id=document["imageId"],
            image_name=record.image,
            log_path=document["logPath"],
            stop_signal=document["stopSignal"],
            snapshotter=record.snapshotter,
            created_at=document["createdAt"],
            user=_message(document["user"], cri_pb2.LinuxContainerUser()),
            restored=document.get("restored", False),
        )
    except (KeyError, TypeError, json_format.ParseError) as error:
        raise DataLoss(f"the metadata of container {record.id} cannot be read: {error}") from error


def _encode(url: str, document: dict[str, Any]) -> TypedValue:
    return TypedValue(url, json.dumps({"version": _VERSION, **document}, separators=(",", ":")).encode())


def _decode(value: TypedValue | None, what: str) -> dict[str, Any]:
    if value is None:
        raise DataLoss(f"{what} has no metadata of the CRI plugin")
    try:
        document = json.loads(value.value)
    except ValueError as error:
        raise DataLoss(f"the metadata of {what} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise DataLoss(f"the metadata of {what} is not of version {_VERSION}")
    return document


def _document(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _message(document: dict[str, Any], message: M) -> M:
    # Fields of a later version are passed over, so that an older daemon can still read the record.
    return json_format.ParseDict(document, message, ignore_unknown_fields=True)
