"""Images as snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from moorage_api.errors import NotFound
from moorage_cri.context import Cri
from moorage_cri.image.cache import CachedImage

T = TypeVar("T")


async def with_layers(cri: Cri, image: CachedImage, snapshotter: str, work: Callable[[], T]) -> T:
    """Run `work` in a thread; it needs the image's snapshot, and raises `NotFound` without it. An image that another
    client fetched, or that was pulled for another snapshotter, may not be unpacked yet: then it is now."""
    try:
        return await cri.run(work)
    except NotFound:
        record = await cri.run(cri.k8s.images.get, min(image.names))
        await cri.k8s.transfer.unpack(record, snapshotter)
        return await cri.run(work)
