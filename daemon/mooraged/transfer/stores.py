"""What a transfer needs of one namespace's stores: the part of the metadata plugin's contract that it stands on."""

from __future__ import annotations

from typing import Protocol

from moorage_api.content import Info
from moorage_api.core import Stores
from moorage_api.errors import AlreadyExists, NotFound
from moorage_api.images import Image, ImageStore
from moorage_api.leases import Resource


class Metadata(Protocol):
    """All namespaces."""

    @property
    def default_snapshotter(self) -> str: ...

    def bind(self, namespace: str, lease: str = "") -> Stores: ...


def claim(stores: Stores, lease: str, digest: str) -> Info | None:
    """The blob's record if the namespace has it; the lease, to which `stores` is bound, holds it from now on."""
    try:
        stores.content.info(digest)
        stores.leases.add_resource(lease, Resource(digest, "content"))
        return stores.content.info(digest)
    except NotFound:
        return None


def save_image(images: ImageStore, wanted: Image) -> Image:
    """Create the image, or make an existing one point at this target, with these labels added to its own."""
    while True:
        try:
            return images.create(wanted)
        except AlreadyExists:
            pass
        try:
            return images.update(wanted, ["target", *(f"labels.{key}" for key in wanted.labels)])
        except NotFound:
            continue  # removed in between: create it after all
