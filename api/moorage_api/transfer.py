"""Transfer: images between registries and the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.images import Image
from moorage_api.types import Labels, Platform


@dataclass(frozen=True, slots=True)
class Progress:
    """One step forward (`containerd.types.transfer.Progress`).

    `event` is `resolving`, `resolved`, `waiting`, `downloading`, `complete`, `extracting`, `extracted`, `saved` or
    `already exists`; `name` is the reference, or a kind and a short digest; `parents` names what it belongs to;
    `progress` and `total` are bytes, `total` zero where it is unknown.
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


@runtime_checkable
class Transfer(Protocol):
    """Transfers into one namespace."""

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
