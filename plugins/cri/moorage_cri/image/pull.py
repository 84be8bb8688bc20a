"""PullImage."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from moorage_api.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, NotFound
from moorage_api.images import Image
from moorage_api.oci import reference
from moorage_api.rpc import Call
from moorage_api.transfer import Progress, PullOptions
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.context import Cri
from moorage_cri.image import auth

_CHECK_SECONDS = 1.0


class PullImage:
    """Pulls images through the daemon's transfer service, and gives them the names that a kubelet knows them by."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def PullImage(self, request: cri_pb2.PullImageRequest, call: Call) -> cri_pb2.PullImageResponse:
        cri = self._cri
        parsed = reference.parse(request.image.image)
        marks = self._labels(parsed.canonical)
        handler = cri.config.handler(request.image.runtime_handler)
        options = PullOptions(
            snapshotter=cri.snapshotter_of(handler),
            labels=marks,
            credentials=auth.source(request.auth) if request.HasField("auth") else None,
        )
        image = await self._pull(parsed.canonical, options)
        entry = await cri.run(cri.images.read, image.name)
        if entry is None:
            raise InvalidArgument(f"image {image.name} has nothing that could run on this machine")
        cri.images.put(image.name, entry)
        id = entry[1].id
        for name in (id, f"{parsed.name}@{image.target.digest}"):
            if name != image.name:
                stored = await cri.run(_put_name, cri, Image(name, image.target, marks))
                cri.images.put(name, (stored, entry[1]))
        return cri_pb2.PullImageResponse(image_ref=id)

    async def _pull(self, name: str, options: PullOptions) -> Image:
        """Pull, and give up when no byte has come for the configured time."""
        last = time.monotonic()

        def progress(step: Progress) -> None:
            nonlocal last
            last = time.monotonic()

        limit = self._cri.config.image_pull_progress_timeout
        pulling = asyncio.ensure_future(self._cri.k8s.transfer.pull(name, options, progress))
        try:
            while not pulling.done():
                await asyncio.wait({pulling}, timeout=min(_CHECK_SECONDS, limit))
                if not pulling.done() and time.monotonic() - last > limit:
                    raise DeadlineExceeded(f"pulling {name}: no progress for {limit:g} s")
        finally:
            if not pulling.done():
                pulling.cancel()
                with suppress(asyncio.CancelledError):
                    await pulling
        return pulling.result()

    def _labels(self, name: str) -> dict[str, str]:
        marks = {labels.IMAGE: labels.IMAGE_MANAGED}
        if name in self._cri.config.pinned_images:
            marks[labels.PINNED] = "pinned"
        return marks


def _put_name(cri: Cri, image: Image) -> Image:
    """Create a further name of an image, or point it there. Another client may do the same meanwhile."""
    images = cri.k8s.images
    while True:
        with suppress(AlreadyExists):
            return images.create(image)
        with suppress(NotFound):
            return images.update(image, ["target", *(f"labels.{key}" for key in image.labels)])
