"""Images: names for descriptors (`containerd.services.images.v1`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from moorage_api.types import Descriptor, Labels


@dataclass(frozen=True, slots=True)
class Image:
    """A name (a reference, or any string a client chose) and the index or manifest that it points at."""

    name: str
    target: Descriptor
    labels: Labels = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


@runtime_checkable
class ImageStore(Protocol):
    """The images of one namespace. Thread-safe. Each change is published (`/images/create`, `update`, `delete`)."""

    def get(self, name: str) -> Image:
        """`NotFound`."""

    def list(self, filters: Sequence[str] = ()) -> list[Image]:
        """Those that match any of the filters (fields: name, target.digest, target.mediatype, labels), by name."""

    def create(self, image: Image) -> Image:
        """Times are set here. `AlreadyExists`, `InvalidArgument`."""

    def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """All mutable fields, or those named (`target`, `labels`, `labels.KEY`, `annotations…`). `NotFound`."""

    def delete(self, name: str, target: str = "") -> None:
        """`NotFound`, also when `target` (a digest) is given and the image points elsewhere."""
