"""Values that several contracts share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage_api.errors import InvalidArgument

Labels = Mapping[str, str]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|sha384:[0-9a-f]{96}")
# containerd's identifiers: letters, digits and single separators between them, at most 76 characters.
_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*")
_IDENTIFIER_MAX = 76
_LABEL_MAX = 4096


@dataclass(frozen=True, slots=True)
class TypedValue:
    """A `google.protobuf.Any`: bytes and the URL of their type. Never decoded by who only carries it."""

    type_url: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Platform:
    """An OCI platform (image-spec, image-index, `platform`). Empty fields match anything."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A content descriptor (image-spec, descriptor): what is meant, and how large it is in bytes. `urls`: where else it
    can be had; `artifact_type`: what kind of thing a manifest is, where it is no image."""

    media_type: str
    digest: str
    size: int
    annotations: Labels = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""


def check_digest(digest: str) -> str:
    """Return `digest` if it is well-formed (image-spec, descriptor, digests), else raise `InvalidArgument`."""
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidArgument(
            f"invalid digest {digest[:120]!r}: expected algorithm:hex, for example sha256: and 64 lower-case hex digits"
        )
    return digest


def check_identifier(identifier: str, what: str = "identifier") -> str:
    """Return `identifier` if containerd's rules allow it, else raise `InvalidArgument`; `what` names it in the error.

    Rules: 1 to 76 characters; letters and digits, with single `.`, `_` or `-` between them.
    """
    if not identifier:
        raise InvalidArgument(f"{what} must not be empty")
    if len(identifier) > _IDENTIFIER_MAX:
        raise InvalidArgument(f"{what} {identifier[:80]!r}… is longer than {_IDENTIFIER_MAX} characters")
    if _IDENTIFIER.fullmatch(identifier) is None:
        raise InvalidArgument(
            f"invalid {what} {identifier!r}: expected letters and digits, with single '.', '_' or '-' between them"
        )
    return identifier


def check_labels(labels: Labels) -> Labels:
    """Return `labels` if each key plus its value is at most 4096 bytes, else raise `InvalidArgument`."""
    for key, value in labels.items():
        if not key:
            raise InvalidArgument("a label key must not be empty")
        length = len(key.encode()) + len(value.encode())
        if length > _LABEL_MAX:
            raise InvalidArgument(
                f"label key and value of {key[:64]!r} have {length} bytes together: at most {_LABEL_MAX}"
            )
    return labels
