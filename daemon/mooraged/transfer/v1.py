"""Docker's first image format: a chain of JSON documents, one a layer, that becomes the configuration of today.

It lives on in registries as schema 1 (https://distribution.github.io/distribution/spec/deprecated-schema-v1/) and in
archives that `docker save` wrote before 1.10.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from moorage_api.errors import InvalidArgument, ResourceExhausted
from moorage_api.oci import image
from moorage_api.types import check_digest

_KEPT = ("architecture", "os", "variant", "os.version", "os.features", "created", "author", "config", "docker_version")


@dataclass(frozen=True, slots=True)
class Schema1:
    """A manifest of schema 1, from the bottom up: the digest of each layer's blob, and its document."""

    blobs: tuple[str, ...]
    chain: tuple[Mapping[str, Any], ...]


class _FsLayer(msgspec.Struct, frozen=True, rename="camel"):
    blob_sum: str


class _History(msgspec.Struct, frozen=True, rename="camel"):
    v1_compatibility: str = msgspec.field(name="v1Compatibility")


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    fs_layers: tuple[_FsLayer, ...]
    history: tuple[_History, ...]


def parse_schema1(data: bytes) -> Schema1:
    """Read a signed or unsigned manifest. Its signature says nothing of who made it, and is not looked at: the digest of
    the whole is checked, where one was asked for. `InvalidArgument`, `ResourceExhausted`."""
    try:
        document = msgspec.json.decode(data, type=_Document)
        chain = [_document(entry.v1_compatibility) for entry in document.history]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the manifest of schema 1 is not well-formed: {error}") from None
    if document.schema_version != 1 or not chain or len(chain) != len(document.fs_layers):
        raise InvalidArgument("the manifest of schema 1 has not as many layers as steps of history")
    if len(chain) > image.ENTRIES_MAX:
        raise ResourceExhausted(f"the manifest has {len(chain)} layers: at most {image.ENTRIES_MAX} are read")
    blobs = [check_digest(layer.blob_sum) for layer in document.fs_layers]
    return Schema1(tuple(reversed(blobs)), tuple(reversed(chain)))


def signed_payload(data: bytes) -> bytes:
    """What the digest of a signed manifest is of: the bytes without the signatures, as the signature's header cuts them.

    The bytes themselves where there is no signature. `InvalidArgument` for a header that cannot be followed.
    """
    try:
        document = msgspec.json.decode(data)
        signatures = document.get("signatures") if isinstance(document, dict) else None
        if not signatures:
            return data
        protected = msgspec.json.decode(_unpadded(signatures[0]["protected"]))
        length, tail = int(protected["formatLength"]), _unpadded(protected["formatTail"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError) as error:
        raise InvalidArgument(f"the manifest's signature cannot be read: {error}") from None
    if not 0 <= length <= len(data):
        raise InvalidArgument("the manifest's signature is of more bytes than there are")
    return data[:length] + tail


def is_empty(step: Mapping[str, Any]) -> bool:
    """Whether a step of the chain changed no files, so that its layer is left out."""
    return step.get("throwaway") is True


def config_of(chain: Sequence[Mapping[str, Any]], diff_ids: Sequence[str]) -> bytes:
    """The configuration of the image that a chain ends with; `diff_ids` are those of its steps that are not empty."""
    top = chain[-1]
    config = {key: top[key] for key in _KEPT if top.get(key) is not None}
    config.setdefault("architecture", "amd64")
    config.setdefault("os", "linux")
    config["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    config["history"] = [_history(step) for step in chain]
    return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()


def _history(step: Mapping[str, Any]) -> dict[str, Any]:
    made = step.get("container_config")
    command = made.get("Cmd") if isinstance(made, dict) else None
    known = {
        "created": step.get("created"),
        "author": step.get("author"),
        "comment": step.get("comment"),
        "created_by": " ".join(map(str, command)) if isinstance(command, list) else None,
        "empty_layer": is_empty(step) or None,
    }
    return {key: value for key, value in known.items() if value}


def _document(text: str) -> Mapping[str, Any]:
    document = msgspec.json.decode(text)
    if not isinstance(document, dict):
        raise InvalidArgument("a step of the manifest's history is not a JSON object")
    return document


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
