"""What a transfer needs of one namespace's stores: the part of the metadata plugin's contract that it stands on."""

from __future__ import annotations

from typing import Protocol

from moorage_api.content import ContentStore
from moorage_api.images import ImageStore
from moorage_api.leases import LeaseManager
from moorage_api.snapshots import Snapshotter


class Stores(Protocol):
    """One namespace. With a lease bound, what is written is added to that lease."""

    @property
    def namespace(self) -> str: ...

    @property
    def content(self) -> ContentStore: ...

    @property
    def images(self) -> ImageStore: ...

    @property
    def leases(self) -> LeaseManager: ...

    def snapshotter(self, name: str = "") -> Snapshotter: ...


class Metadata(Protocol):
    """All namespaces."""

    @property
    def default_snapshotter(self) -> str: ...

    def bind(self, namespace: str, lease: str = "") -> Stores: ...
