"""The images of the namespace, in memory: by id, by every name, kept up to date by the events of the image store."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from moorage_api.core import Namespaced
from moorage_api.errors import InvalidArgument, MoorageError, NotFound
from moorage_api.images import Image
from moorage_api.oci import reference
from moorage_api.oci.image import ImageConfig
from moorage_cri import labels
from moorage_cri.image import documents

logger = logging.getLogger(__name__)

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


@dataclass(slots=True)
class CachedImage:
    """An image with all its names in the store; `pinned` holds those of them that are pinned."""

    id: str
    chain_id: str
    size: int
    config: ImageConfig
    names: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)

    @property
    def repo_tags(self) -> list[str]:
        return sorted(name for name in self.names if "@" not in name and not _is_id(name))

    @property
    def repo_digests(self) -> list[str]:
        return sorted(name for name in self.names if "@" in name)


class ImageCache:
    """Thread-confined to the event loop, but for `read`, which does the I/O and may run anywhere."""

    def __init__(self, k8s: Namespaced) -> None:
        self._k8s = k8s
        self._images: dict[str, CachedImage] = {}
        self._names: dict[str, str] = {}

    def read(self, name: str) -> tuple[Image, documents.ImageContent] | None:
        """The image of that name as the store has it; None where it is not there, or is nothing that could run here."""
        try:
            image = self._k8s.images.get(name)
            return image, documents.read(self._k8s.content, image.target)
        except NotFound:
            return None
        except MoorageError as error:
            logger.warning("image %s is left out: %s", name, error)
            return None

    def read_all(self) -> list[tuple[Image, documents.ImageContent]]:
        """Every image of the namespace that could run here."""
        found = (self.read(image.name) for image in self._k8s.images.list())
        return [entry for entry in found if entry is not None]

    def put(self, name: str, entry: tuple[Image, documents.ImageContent] | None) -> None:
        """Remember what `read` found under a name."""
        old = self._names.get(name)
        if old is not None and (entry is None or entry[1].id != old):
            self._drop(name, old)
        if entry is None:
            return
        image, content = entry
        cached = self._images.get(content.id)
        if cached is None:
            cached = CachedImage(content.id, content.chain_id, content.size, content.config)
            self._images[content.id] = cached
        cached.names.add(name)
        if image.labels.get(labels.PINNED) == "pinned":
            cached.pinned.add(name)
        else:
            cached.pinned.discard(name)
        self._names[name] = content.id

    def resolve(self, text: str) -> CachedImage:
        """By id, whole or its beginning, with or without `sha256:`, or by reference. `NotFound`, `InvalidArgument`."""
        if not text:
            raise InvalidArgument("the image reference is empty")
        known = self._names.get(text) or (text if text in self._images else None)
        known = known or self._by_reference(text) or self._by_prefix(text)
        if known is None:
            raise NotFound(f"no image {text[:200]!r}")
        return self._images[known]

    def all(self) -> list[CachedImage]:
        """By id."""
        return [self._images[id] for id in sorted(self._images)]

    def names(self) -> list[str]:
        """Every name of every image."""
        return sorted(self._names)

    def _by_reference(self, text: str) -> str | None:
        try:
            return self._names.get(reference.parse(text).canonical)
        except InvalidArgument:
            if _is_id(text):
                return None
            raise

    def _by_prefix(self, text: str) -> str | None:
        match = _ID.fullmatch(text)
        if match is None:
            return None
        found = [id for id in self._images if id.startswith(f"sha256:{match[1]}")]
        if len(found) > 1:
            raise InvalidArgument(f"{len(found)} image ids begin with {match[1]}")
        return found[0] if found else None

    def _drop(self, name: str, id: str) -> None:
        del self._names[name]
        cached = self._images[id]
        cached.names.discard(name)
        cached.pinned.discard(name)
        if not cached.names:
            del self._images[id]


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None and (text.startswith("sha256:") or len(text) == 64)
