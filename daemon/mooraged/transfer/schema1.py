"""Images of Docker's schema 1, which some registries still keep: what their manifests say.

Source: https://distribution.github.io/distribution/spec/deprecated-schema-v1/.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from moorage_api.errors import InvalidArgument, ResourceExhausted
from moorage_api.oci import image
from moorage_api.types import check_digest


@dataclass(frozen=True, slots=True)
class Schema1:
    """What a manifest has, from the bottom up: the digest of each step's blob, and its document."""

    blobs: tuple[str, ...]
    chain: tuple[Mapping[str, Any], ...]


class _FsLayer(msgspec.Struct, frozen=True):
    blob_sum: str = msgspec.field(name="blobSum")


class _History(msgspec.Struct, frozen=True):
    v1_compatibility: str = msgspec.field(name="v1Compatibility")


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    fs_layers: tuple[_FsLayer, ...]
    history: tuple[_History, ...]


def parse(data: bytes) -> Schema1:
    """Read a signed or unsigned manifest. Its signature says nothing of who made it, and is not looked at: the digest of
    the whole is checked. `InvalidArgument`, `ResourceExhausted`."""
    try:
        document = msgspec.json.decode(data, type=_Document)
        chain = [_step(entry.v1_compatibility) for entry in document.history]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the manifest of schema 1 is not well-formed: {error}") from None
    if document.schema_version != 1 or not chain or len(chain) != len(document.fs_layers):
        raise InvalidArgument("the manifest of schema 1 has not as many layers as steps of history")
    if len(chain) > image.ENTRIES_MAX:
        raise ResourceExhausted(f"the manifest has {len(chain)} layers: at most {image.ENTRIES_MAX} are read")
    blobs = [check_digest(layer.blob_sum) for layer in document.fs_layers]
    return Schema1(tuple(reversed(blobs)), tuple(reversed(chain)))


def digest(data: bytes, algorithm: str) -> str:
    """The digest by which a manifest is known: of its bytes without the signatures. Empty for a signature that is none."""
    try:
        signed = payload(data)
    except InvalidArgument:
        return ""
    return f"{algorithm}:{hashlib.new(algorithm, signed).hexdigest()}"


def payload(data: bytes) -> bytes:
    """What is signed of a manifest, as the signature's header cuts it: the bytes themselves where there is no signature.

    `InvalidArgument` for a header that cannot be followed.
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


def _step(text: str) -> Mapping[str, Any]:
    document = msgspec.json.decode(text)
    if not isinstance(document, dict):
        raise InvalidArgument("a step of the manifest's history is not a JSON object")
    return document


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
