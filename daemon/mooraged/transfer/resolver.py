"""From a reference to a descriptor: which manifest or index a registry has under a tag or a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import msgspec

from moorage_api.errors import DataLoss, InvalidArgument, ResourceExhausted
from moorage_api.oci import image
from moorage_api.oci.reference import Reference
from moorage_api.types import Descriptor, check_digest
from mooraged.transfer import schema1
from mooraged.transfer.client import read_body
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import PULL, RESOLVE, Host
from mooraged.transfer.source import Source

ACCEPT = {
    "Accept": ", ".join(
        (image.OCI_INDEX, image.DOCKER_LIST, image.OCI_MANIFEST, image.DOCKER_MANIFEST, "*/*;q=0.1"),
    )
}
_DIGEST_HEADER = "Docker-Content-Digest"
_TRY_GET = frozenset({400, 403, 405, 501})
"""Answers to HEAD after which GET is tried: it may be known where HEAD is not, and its body says why something is refused."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for. `data` is the document itself where it had to be read to know; else empty."""

    descriptor: Descriptor
    data: bytes = b""


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw = msgspec.Raw()


async def resolve(source: Source) -> Resolved:
    """Ask for the source's reference: by digest any host that may be pulled from, by tag only those trusted to resolve.

    It may be a manifest of Docker's schema 1. Errors as `Source.ask`; also `InvalidArgument` for what is no image.
    """
    reference = source.reference
    resolved = await source.ask(
        f"resolve {reference.canonical}", lambda host: resolve_at(source, host), needed_for(reference)
    )
    media_type = resolved.descriptor.media_type
    if not _is_known(media_type):
        raise InvalidArgument(f"{reference.canonical} is not an image: its media type is {media_type!r}")
    return resolved


def needed_for(reference: Reference) -> frozenset[str]:
    """What a host must be trusted with to be asked for this reference."""
    return frozenset({PULL} if reference.digest else {PULL, RESOLVE})


async def resolve_at(source: Source, host: Host) -> Resolved:
    """Ask one host: by HEAD, which registries do not count against a limit of pulls, and by GET only where HEAD does not
    tell all. `HostFailure`."""
    reference = source.reference
    try:
        async with source.request(host, "HEAD", "manifests", reference.object, ACCEPT) as response:
            descriptor = _described(response, reference.digest)
    except HostFailure as failure:
        if failure.status not in _TRY_GET:
            raise
        descriptor = None
    if descriptor is not None:
        return Resolved(descriptor)
    async with source.request(host, "GET", "manifests", reference.object, ACCEPT) as response:
        data = await read_body(response, image.MANIFEST_MAX)
        return _inspected(data, response.headers, reference.digest)


def _described(response: aiohttp.ClientResponse, wanted: str) -> Descriptor | None:
    """The descriptor that the headers of a HEAD give, or None where they do not give all of it."""
    digest = _stated_digest(response.headers, wanted) or wanted
    size = response.headers.get("Content-Length", "")
    media_type = _media_type(response.headers)
    if not digest or not size.isdecimal() or size == "0" or not _is_known(media_type):
        return None
    if int(size) > image.MANIFEST_MAX:
        raise HostFailure(ResourceExhausted(f"its manifest has {size} bytes: at most {image.MANIFEST_MAX} are read"))
    return Descriptor(media_type, digest, int(size))


def _inspected(data: bytes, headers: Mapping[str, str], wanted: str) -> Resolved:
    """The descriptor of a document that was read; its own media type counts where the headers' is a general one."""
    stated = _stated_digest(headers, wanted) or wanted
    media_type = _media_type(headers)
    if not _is_known(media_type):
        media_type = _inner_type(data)
    algorithm = (stated or "sha256:").partition(":")[0]
    if image.is_schema1(media_type):
        digest = schema1.digest(data, algorithm)
    else:
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if stated and digest != stated:
        raise HostFailure(DataLoss(f"its manifest should be {stated} and is {digest}"))
    return Resolved(Descriptor(media_type, digest, len(data)), data)


def _stated_digest(headers: Mapping[str, str], wanted: str) -> str:
    digest = headers.get(_DIGEST_HEADER, "")
    if not digest:
        return ""
    try:
        check_digest(digest)
    except InvalidArgument as error:
        raise HostFailure(DataLoss(f"its {_DIGEST_HEADER} is none: {error}")) from None
    if wanted and digest != wanted and digest.partition(":")[0] == wanted.partition(":")[0]:
        raise HostFailure(DataLoss(f"asked for {wanted}, it offers {digest}"))
    return "" if wanted else digest


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _is_known(media_type: str) -> bool:
    return image.is_index(media_type) or image.is_manifest(media_type) or image.is_schema1(media_type)


def _inner_type(data: bytes) -> str:
    try:
        kind = msgspec.json.decode(data, type=_Kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if kind.schema_version == 1:
        return image.DOCKER_SCHEMA1
    return kind.media_type or (image.OCI_INDEX if bytes(kind.manifests) else image.OCI_MANIFEST)
