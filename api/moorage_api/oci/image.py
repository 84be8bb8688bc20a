"""The documents of an image: index, manifest and configuration, in their OCI and Docker schema 2 forms.

Source: image-spec (https://github.com/opencontainers/image-spec), `image-index.md`, `manifest.md`, `config.md`; Docker's
forms have the same fields under other media types.

Documents come from registries, so reading them is bounded (bytes, entries, nesting) and never trusts a media type that
two places state differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from moorage_api.errors import DataLoss, InvalidArgument, ResourceExhausted, Unimplemented
from moorage_api.types import Descriptor, Platform, check_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_SCHEMA1_UNSIGNED = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
IN_TOTO = "application/vnd.in-toto+json"

MANIFEST_MAX = 4 << 20
"""Bytes of an index or a manifest (distribution-spec, "pushing manifests", asks for at least this much)."""
CONFIG_MAX = 8 << 20
"""Bytes of an image configuration."""
ENTRIES_MAX = 4096
"""Manifests in an index, layers in a manifest."""
DEPTH_MAX = 4
"""Indexes within indexes."""

_LAYER_BASES = frozenset(
    {
        DOCKER_LAYER,
        DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)


def is_index(media_type: str) -> bool:
    return media_type in (OCI_INDEX, DOCKER_LIST)


def is_manifest(media_type: str) -> bool:
    return media_type in (OCI_MANIFEST, DOCKER_MANIFEST)


def is_schema1(media_type: str) -> bool:
    """Docker's first manifests, which must be made into others before they are of use."""
    return media_type in (DOCKER_SCHEMA1, DOCKER_SCHEMA1_UNSIGNED)


def is_config(media_type: str) -> bool:
    return media_type in (OCI_CONFIG, DOCKER_CONFIG)


def is_foreign(media_type: str) -> bool:
    """A layer that may not be passed on, and is had from its URLs."""
    return ".foreign." in media_type or ".nondistributable." in media_type


def is_layer(media_type: str) -> bool:
    """A layer of a root file system, compressed or not, encrypted or not."""
    return media_type.startswith("application/vnd.oci.image.layer.") or media_type.partition("+")[0] in _LAYER_BASES


class PlatformDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `platform` of an index's entry."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")

    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant, self.os_version, self.os_features)


class DescriptorDocument(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A descriptor as JSON has it; `descriptor()` is the same, checked."""

    digest: str
    size: int
    media_type: str = ""
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: PlatformDocument | None = None
    artifact_type: str = ""

    def descriptor(self) -> Descriptor:
        """`InvalidArgument` for a malformed digest, or a size that is none."""
        if not 0 <= self.size < 1 << 63:
            raise InvalidArgument(f"the descriptor of {self.digest[:80]} has a size of {self.size}")
        platform = self.platform.platform() if self.platform else None
        return Descriptor(
            self.media_type,
            check_digest(self.digest),
            self.size,
            self.annotations,
            platform,
            self.urls,
            self.artifact_type,
        )

    @classmethod
    def of(cls, descriptor: Descriptor) -> DescriptorDocument:
        """The document of a descriptor."""
        known = descriptor.platform
        platform = None
        if known is not None:
            platform = PlatformDocument(
                known.os, known.architecture, known.variant, known.os_version, known.os_features
            )
        return cls(
            descriptor.digest,
            descriptor.size,
            descriptor.media_type,
            descriptor.urls,
            dict(descriptor.annotations),
            platform,
            descriptor.artifact_type,
        )


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image index, or Docker's manifest list."""

    schema_version: int = 2
    media_type: str = ""
    manifests: tuple[DescriptorDocument, ...] = ()
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: DescriptorDocument | None = None

    def children(self) -> list[Descriptor]:
        return [entry.descriptor() for entry in self.manifests]


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image manifest."""

    config: DescriptorDocument
    schema_version: int = 2
    media_type: str = ""
    layers: tuple[DescriptorDocument, ...] = ()
    annotations: dict[str, str] = {}
    artifact_type: str = ""
    subject: DescriptorDocument | None = None

    def children(self) -> list[Descriptor]:
        """The configuration, then the layers from the bottom up."""
        return [entry.descriptor() for entry in (self.config, *self.layers)]


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """Docker's extension: durations in nanoseconds."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """How a container of the image runs by default (`config`, with Docker's extensions)."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


class RootFS(msgspec.Struct, frozen=True):
    """The digests of the uncompressed layers, from the bottom up."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of the image's making."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image configuration. Its digest is the image's ID for CRI and for Docker."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    created: str = ""
    author: str = ""
    config: RunConfig = RunConfig()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()

    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant, self.os_version, self.os_features)


T = TypeVar("T")


def parse_index(data: bytes, media_type: str = "") -> Index:
    """Read an index; `media_type` is what its descriptor says.

    `InvalidArgument` for what is not JSON of this form or disagrees with its descriptor, `ResourceExhausted` beyond
    the limits.
    """
    document = _load(data, "index", MANIFEST_MAX)
    _check_kind(document, "index", media_type, ("config", "layers", "fsLayers", "history"))
    index = _convert(document, Index, "index")
    _check_count(len(index.manifests), "index", "manifests")
    return index


def parse_manifest(data: bytes, media_type: str = "") -> Manifest:
    """Read a manifest; errors as `parse_index`. Docker's schema 1: `Unimplemented`."""
    document = _load(data, "manifest", MANIFEST_MAX)
    if document.get("schemaVersion") == 1:
        raise Unimplemented(
            "the manifest is of Docker's schema 1, which carries no verifiable layers: push the image again"
        )
    _check_kind(document, "manifest", media_type, ("manifests", "fsLayers"))
    manifest = _convert(document, Manifest, "manifest")
    _check_count(len(manifest.layers), "manifest", "layers")
    return manifest


def parse_config(data: bytes) -> ImageConfig:
    """Read an image configuration; errors as `parse_index`."""
    config = _convert(_load(data, "image configuration", CONFIG_MAX), ImageConfig, "image configuration")
    _check_count(len(config.rootfs.diff_ids), "image configuration", "diff IDs")
    for diff_id in config.rootfs.diff_ids:
        check_digest(diff_id)
    return config


def children(media_type: str, data: bytes) -> list[Descriptor]:
    """What an index or a manifest refers to, in order; nothing for any other media type. Errors as `parse_index`."""
    if is_index(media_type):
        return parse_index(data, media_type).children()
    if is_manifest(media_type):
        return parse_manifest(data, media_type).children()
    return []


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain ID of each layer, from the bottom up (image-spec, config, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = chain[-1] if chain else ""
        chain.append("sha256:" + hashlib.sha256(f"{below} {diff_id}".encode()).hexdigest() if below else diff_id)
    return chain


def verify(data: bytes, descriptor: Descriptor) -> bytes:
    """`data`, if it is what the descriptor says; else `DataLoss`."""
    algorithm, _, expected = descriptor.digest.partition(":")
    actual = hashlib.new(algorithm, data).hexdigest()
    if len(data) != descriptor.size or actual != expected:
        raise DataLoss(
            f"{descriptor.digest} of {descriptor.size} bytes was expected, {algorithm}:{actual} of {len(data)} bytes came"
        )
    return data


def _load(data: bytes, what: str, most: int) -> dict[str, Any]:
    if len(data) > most:
        raise ResourceExhausted(f"the {what} has {len(data)} bytes: at most {most} are read")
    try:
        document = _without_nulls(msgspec.json.decode(data))
    except RecursionError:
        raise ResourceExhausted(f"the {what} is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the {what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument(f"the {what} is not a JSON object")
    return document


def _without_nulls(value: Any) -> Any:
    """Go's encoder writes null for an empty list or map: the same as absent here."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _check_kind(document: dict[str, Any], what: str, media_type: str, foreign: Iterable[str]) -> None:
    """Refuse a document that two readers could take for two things (CVE-2021-41190)."""
    stated = document.get("mediaType", "")
    if stated and media_type and stated != media_type:
        raise InvalidArgument(f"the {what} calls itself {stated!r}, its descriptor says {media_type!r}")
    for key in foreign:
        if key in document:
            raise InvalidArgument(f"the {what} has a field {key!r}, which belongs to another kind of document")


def _convert(document: dict[str, Any], form: type[T], what: str) -> T:
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the {what} is not well-formed: {error}") from None


def _check_count(count: int, what: str, of: str) -> None:
    if count > ENTRIES_MAX:
        raise ResourceExhausted(f"the {what} has {count} {of}: at most {ENTRIES_MAX} are read")
