"""Making the documents of an image: indexes, manifests, configurations. The same arguments give the same bytes.

With `Differ.compare` this is all that a `commit` needs: compare a container's snapshot with its parent, `add_layer` to
the configuration of its image, and write a `manifest` of the image's layers and the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from moorage_api.errors import InvalidArgument
from moorage_api.oci import image
from moorage_api.types import Descriptor

UNCOMPRESSED = "containerd.io/uncompressed"
"""The annotation by which `Differ.compare` tells a layer's diff ID."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a new layer adds to an image's history. `created` is an RFC 3339 time; `config` replaces fields of the run
    configuration (`Cmd`, `Env`, `Entrypoint`…), a field given None being removed."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def describe(data: bytes, media_type: str) -> Descriptor:
    """The descriptor of a document."""
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    """A descriptor as a document has it, with `mediaType` first as most writers put it."""
    document = msgspec.to_builtins(image.DescriptorDocument.of(descriptor))
    return {"mediaType": document.pop("mediaType", ""), **document}


def manifest(
    config: Descriptor,
    layers: Iterable[Descriptor],
    media_type: str = image.OCI_MANIFEST,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """A manifest of these blobs."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor_json(config),
        "layers": [descriptor_json(layer) for layer in layers],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return encode(document)


def index(
    children: Iterable[Descriptor],
    media_type: str = image.OCI_INDEX,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """An index of these manifests."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [descriptor_json(child) for child in children],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return encode(document)


def add_layer(config: bytes, layer: Descriptor, change: Change = Change()) -> bytes:
    """The configuration `config` with one more layer on top; what it has besides stays, known here or not.

    `layer` is what `Differ.compare` returned. `InvalidArgument` for one without its diff ID, or a configuration that
    is none.
    """
    image.parse_config(config)
    diff_id = layer.annotations.get(UNCOMPRESSED, "")
    if not diff_id:
        raise InvalidArgument(f"the layer {layer.digest} has no annotation {UNCOMPRESSED}")
    document: dict[str, Any] = json.loads(config)
    rootfs = document.get("rootfs") or {}
    document["rootfs"] = {**rootfs, "type": "layers", "diff_ids": [*(rootfs.get("diff_ids") or ()), diff_id]}
    said = {key: getattr(change, key) for key in ("created", "created_by", "author", "comment")}
    document["history"] = [*(document.get("history") or ()), {key: value for key, value in said.items() if value}]
    document.update({key: said[key] for key in ("created", "author") if said[key]})
    if change.config:
        run = {**(document.get("config") or {}), **change.config}
        document["config"] = {key: value for key, value in run.items() if value is not None}
    return encode(document)


def without_annotations(layers: Sequence[Descriptor]) -> list[Descriptor]:
    """Layers as a manifest names them: what a store noted on them stays with the store."""
    return [Descriptor(layer.media_type, layer.digest, layer.size, urls=layer.urls) for layer in layers]


def encode(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """A document as JSON without spaces, in the order of its keys."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
