"""Transfer: images between registries, archives and the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.images import Image
from moorage_api.types import Descriptor, Labels, Platform


@dataclass(frozen=True, slots=True)
class Progress:
    """One step forward (`containerd.types.transfer.Progress`).

    `event` is `resolving`, `resolved`, `waiting`, `downloading`, `uploading`, `mounted`, `complete`, `extracting`,
    `extracted`, `converting`, `importing`, `exporting`, `saved`, `pushed` or `already exists`; `name` is the reference,
    or a kind and a short digest; `parents` names what it belongs to; `progress` and `total` are bytes, `total` zero
    where it is unknown.
    """

    event: str
    name: str
    digest: str = ""
    media_type: str = ""
    parents: tuple[str, ...] = ()
    progress: int = 0
    total: int = 0


ProgressSink = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and its password, an identity token (`secret` without `username`), or a registry token as a whole
    `Authorization` header."""

    username: str = ""
    secret: str = ""
    header: str = ""


CredentialSource = Callable[[str], Awaitable[Credentials | None]]
"""Given a registry host (with port), what to log in with; None for anonymous. It may wait: a client that pulls is asked
over its stream when the registry wants credentials, and not before."""


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to pull. `snapshotter` empty and `unpack` true: the configured default. `hosts_dir`: a folder of `hosts.toml`
    files in place of the configured ones. `plain_http`: for hosts that no `hosts.toml` speaks of."""

    platforms: tuple[Platform, ...] = ()
    unpack: bool = True
    snapshotter: str = ""
    labels: Labels = field(default_factory=dict)
    credentials: CredentialSource | None = None
    hosts_dir: str = ""
    plain_http: bool | None = None
    names: Sequence[str] = ()
    """Further names that the image gets, besides the normalised reference."""


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How to push. `platforms` empty: the image as it is, all that its index names; one: that platform's manifest in
    place of the index; several: the index, of which the registry must have the rest. The others as in `PullOptions`."""

    platforms: tuple[Platform, ...] = ()
    credentials: CredentialSource | None = None
    hosts_dir: str = ""
    plain_http: bool | None = None


@dataclass(frozen=True, slots=True)
class NameRule:
    """How images of an archive are named (`containerd.types.transfer.ImageReference`).

    With `is_prefix`, `name` is a repository: an image that has only a tag in the archive becomes `name:tag`; one with a
    full name keeps it where it begins with `name`, or always with `allow_overwrite`. `add_digest` names it
    `name@digest` besides, or with `skip_named_digest` only where it has no name. Without `is_prefix`, `name` is one
    more name of the archive's index as a whole.
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read an archive. `index_name`: a name for its index as a whole; `rules`: how the images in it are named.
    `platforms` empty: all. `compress`: layers of `docker save` that come uncompressed are stored as gzip."""

    index_name: str = ""
    rules: Sequence[NameRule] = ()
    platforms: tuple[Platform, ...] = ()
    labels: Labels = field(default_factory=dict)
    compress: bool = False
    unpack: bool = False
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What goes into an archive. `platforms` empty: this machine's, unless `all_platforms`. `docker_manifest`: a
    `manifest.json`, by which `docker load` reads it too. `non_distributable` false leaves out layers that may not be
    passed on."""

    platforms: tuple[Platform, ...] = ()
    all_platforms: bool = False
    docker_manifest: bool = True
    non_distributable: bool = True


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What to change. `compression`: `gzip`, `zstd`, `uncompressed`, or empty to leave layers as they are. `oci`:
    Docker's media types become OCI's (zstd needs that). `platforms` empty: all that are here."""

    compression: str = ""
    oci: bool = False
    platforms: tuple[Platform, ...] = ()
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostStep:
    """One host in an `Explanation`.

    `url` is the root of its API; `origin` says why it is in the list (a file and the place in it, or that it is the
    registry itself); `capabilities` what it is trusted with; `tls` how it is spoken to; `proxy` through which proxy.
    `asked` is false where it is passed over; `outcome` says why, or what it answered; `login` which login it wanted,
    `credentials` where they came from (`none`, `client`, `client: token`, `anonymous`).
    """

    url: str
    origin: str
    capabilities: tuple[str, ...] = ()
    tls: str = ""
    proxy: str = ""
    asked: bool = False
    outcome: str = ""
    login: str = ""
    credentials: str = "none"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a pull of `reference` (normalised) would do: the hosts in the order to try, the first that answers last asked.
    `digest` and `media_type` are what it would fetch, empty where no host has it; `config` the file that was read."""

    reference: str
    config: str
    hosts: tuple[HostStep, ...]
    digest: str = ""
    media_type: str = ""


ByteSource = AsyncIterator[bytes]
"""An archive's bytes, in pieces of any size."""
ByteSink = Callable[[bytes], Awaitable[None]]
"""Takes an archive's bytes; it waits where the reader is slow."""


@runtime_checkable
class Transfer(Protocol):
    """Transfers into and out of one namespace."""

    async def pull(
        self, reference: str, options: PullOptions = PullOptions(), progress: ProgressSink | None = None
    ) -> Image:
        """Fetch `reference` and, if asked, unpack it; returns the stored image.

        What is fetched already, in whole or in part, is not fetched again. A lease of its own keeps the parts from
        collection until the image is saved. When it returns, a power cut loses nothing. `InvalidArgument` for a
        reference that does not parse (with the place), `NotFound` at the registry, `Unauthenticated`,
        `PermissionDenied`, `Unavailable` (the registry is not there, with every host tried), `DataLoss` for bytes
        that are not what their digest says.
        """

    async def unpack(self, image: Image, snapshotter: str = "", platform: Platform | None = None) -> str:
        """Make the snapshots of an image that is already fetched; returns the chain ID of the top one."""

    async def push(
        self, name: str, reference: str, options: PushOptions = PushOptions(), progress: ProgressSink | None = None
    ) -> Descriptor:
        """Bring the stored image `name` to a registry as `reference`; returns what was pushed.

        What the registry has is not sent, and mounted from another of its repositories where it may have come from
        there; an upload that breaks off goes on from what arrived. Tags are set last. `NotFound` for the image,
        `FailedPrecondition` where parts of it are not here, and the errors of the registry as in `pull`.
        """

    async def tag(self, name: str, names: Sequence[str], labels: Labels | None = None) -> list[Image]:
        """Give the stored image `name` further names; those that exist point at it then. `NotFound`."""

    async def import_archive(
        self, source: ByteSource, options: ImportOptions = ImportOptions(), progress: ProgressSink | None = None
    ) -> list[Image]:
        """Read an OCI archive or one of `docker save`, compressed or not, in one pass; returns the images that got names.

        Blobs go straight to the content store, each verified. `InvalidArgument` for what is no such archive, or is
        damaged, or lacks blobs that its images need: nothing of it then has a name, and its blobs are collected.
        """

    async def export_archive(
        self,
        names: Sequence[str],
        sink: ByteSink,
        options: ExportOptions = ExportOptions(),
        progress: ProgressSink | None = None,
    ) -> None:
        """Write the images as one OCI archive, which older and newer `docker load` read too. The same images give the
        same bytes. `NotFound` for an image, or for content of a platform that is asked for."""

    async def convert(
        self, name: str, target: str, options: ConvertOptions = ConvertOptions(), progress: ProgressSink | None = None
    ) -> Image:
        """Make the image `target` of the image `name`, with layers and documents in another form. Diff IDs stay, so
        that unpacked snapshots are shared. `NotFound`, `InvalidArgument`."""

    async def explain(self, reference: str, options: PullOptions = PullOptions()) -> Explanation:
        """Resolve `reference` as `pull` would, each host asked once, and say why each step is taken. Nothing is stored.
        `InvalidArgument` for the reference, `FailedPrecondition` for a configuration that cannot be read."""

    async def referrers(
        self, reference: str, artifact_type: str = "", options: PullOptions = PullOptions()
    ) -> list[Descriptor]:
        """What else of the registry refers to the manifest of `reference` (distribution-spec, "Listing Referrers"):
        signatures, SBOMs. Errors as `pull`."""
