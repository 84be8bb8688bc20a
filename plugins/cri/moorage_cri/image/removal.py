"""RemoveImage."""

from __future__ import annotations

from contextlib import suppress

from moorage_api.errors import NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri


class RemoveImage:
    """Removes images."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def RemoveImage(self, request: cri_pb2.RemoveImageRequest, call: Call) -> cri_pb2.RemoveImageResponse:
        """Remove every name of the image; what nothing else needs is then collected. An unknown image is no error."""
        try:
            image = self._cri.images.resolve(request.image.image)
        except NotFound:
            return cri_pb2.RemoveImageResponse()
        for name in sorted(image.names):
            await self._cri.run(self._delete, name)
            self._cri.images.put(name, None)
        return cri_pb2.RemoveImageResponse()

    def _delete(self, name: str) -> None:
        with suppress(NotFound):
            self._cri.k8s.images.delete(name)
