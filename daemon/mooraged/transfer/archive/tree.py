"""The images of an archive as trees of blobs: what must be there, and what keeps what alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moorage_api.core import Stores
from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted
from moorage_api.oci import image
from moorage_api.oci.platforms import any_of
from moorage_api.types import Descriptor, Platform
from mooraged.transfer.documents import read_blob
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.labels import children_labels
from mooraged.transfer.stores import claim

DOCUMENTS_MAX = 4096
"""Indexes and manifests of one archive."""


@dataclass
class Adoption:
    """Takes trees of blobs that are in the store into a namespace's care. Blocks its caller.

    `lease` is the one that `stores` is bound to; `platforms` empty: all.
    """

    stores: Stores
    lease: str
    platforms: Sequence[Platform] = ()
    documents: int = 0

    def wants(self, descriptor: Descriptor) -> bool:
        """Whether its platform, where one is known, is one of those asked for."""
        if not self.platforms or descriptor.platform is None:
            return True
        return any_of(self.platforms).matches(descriptor.platform)

    def adopt(self, root: Descriptor, depth: int = 0) -> None:
        """Check that all of `root` is here, hold it, and label what refers to others so that it keeps them.

        Manifests of an index may be missing, as long as one is there: archives of one platform keep the index whole.
        Layers that may not be passed on may be missing too. `InvalidArgument`, with the digest.
        """
        self._hold(root)
        if not image.is_index(root.media_type) and not image.is_manifest(root.media_type):
            return
        self.documents += 1
        if self.documents > DOCUMENTS_MAX or depth > image.DEPTH_MAX:
            raise ResourceExhausted("the archive has too many indexes and manifests, or too many within each other")
        data = read_blob(self.stores.content, root, image.MANIFEST_MAX)
        children = image.children(root.media_type, data)
        if image.is_manifest(root.media_type):
            for child in children:
                if not image.is_foreign(child.media_type) or claim(self.stores, self.lease, child.digest):
                    self._hold(child)
        else:
            self._adopt_some(root, children, depth)
        set_labels(self.stores.content, root.digest, children_labels(children))

    def _adopt_some(self, root: Descriptor, children: Sequence[Descriptor], depth: int) -> None:
        wanted = [child for child in children if self.wants(child)]
        here = [child for child in wanted if claim(self.stores, self.lease, child.digest)]
        if wanted and not here:
            raise InvalidArgument(f"the archive has none of the manifests that the index {root.digest} names")
        for child in here:
            self.adopt(child, depth + 1)

    def _hold(self, descriptor: Descriptor) -> None:
        info = claim(self.stores, self.lease, descriptor.digest)
        if info is None:
            raise InvalidArgument(f"the archive lacks {descriptor.digest} ({descriptor.media_type or 'no media type'})")
        if info.size != descriptor.size:
            raise InvalidArgument(f"{descriptor.digest} has {info.size} bytes, its descriptor says {descriptor.size}")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A manifest, and what it refers to that is to be had; foreign layers that are not here are left out."""

    descriptor: Descriptor
    manifest: image.Manifest
    blobs: tuple[Descriptor, ...]


def leaf(stores: Stores, descriptor: Descriptor) -> Leaf:
    """The manifest `descriptor`. `NotFound` for it and for what it refers to."""
    data = read_blob(stores.content, descriptor, image.MANIFEST_MAX)
    manifest = image.parse_manifest(data, descriptor.media_type)
    blobs = []
    for child in manifest.children():
        try:
            stores.content.info(child.digest)
        except NotFound:
            if image.is_foreign(child.media_type):
                continue
            raise
        blobs.append(child)
    return Leaf(descriptor, manifest, tuple(blobs))


def indexes(stores: Stores, root: Descriptor, depth: int = 0) -> list[Descriptor]:
    """The indexes of a tree that are here, the root first."""
    if not image.is_index(root.media_type):
        return []
    try:
        children = image.parse_index(read_blob(stores.content, root, image.MANIFEST_MAX), root.media_type).children()
    except NotFound:
        if depth == 0:
            raise
        return []
    if depth == image.DEPTH_MAX:
        raise ResourceExhausted(f"{root.digest} is the last of more than {depth} indexes within each other")
    return [root, *(found for child in children for found in indexes(stores, child, depth + 1))]


def manifests(stores: Stores, root: Descriptor) -> list[Descriptor]:
    """The manifests of a tree, each once, in order, whether they are here or not."""
    if not image.is_index(root.media_type):
        return [root]
    found: dict[str, Descriptor] = {}
    for document in indexes(stores, root):
        data = read_blob(stores.content, document, image.MANIFEST_MAX)
        for child in image.parse_index(data, document.media_type).children():
            if not image.is_index(child.media_type):
                found.setdefault(child.digest, child)
    return list(found.values())
