"""ListImages and ImageStatus: answered from memory."""

from __future__ import annotations

import json

import msgspec

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.image.cache import CachedImage

_UID_MAX = 2**63 - 1


class ImageStatus:
    """Shows images."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def ListImages(self, request: cri_pb2.ListImagesRequest, call: Call) -> cri_pb2.ListImagesResponse:
        wanted = request.filter.image.image
        images = self._cri.images.all()
        if wanted:
            try:
                images = [self._cri.images.resolve(wanted)]
            except (NotFound, InvalidArgument):
                images = []
        return cri_pb2.ListImagesResponse(images=[image_message(image) for image in images])

    async def ImageStatus(self, request: cri_pb2.ImageStatusRequest, call: Call) -> cri_pb2.ImageStatusResponse:
        """An image that is not there is an empty answer, not an error."""
        try:
            image = self._cri.images.resolve(request.image.image)
        except NotFound:
            return cri_pb2.ImageStatusResponse()
        info = None
        if request.verbose:
            document = {"chainID": image.chain_id, "imageSpec": msgspec.to_builtins(image.config)}
            info = {"info": json.dumps(document)}
        return cri_pb2.ImageStatusResponse(image=image_message(image), info=info)


def image_message(image: CachedImage) -> cri_pb2.Image:
    """An image as CRI shows it; its user is a number or a name, whichever the image has."""
    user = image.config.config.user.partition(":")[0]
    numeric = user.isascii() and user.isdecimal() and len(user) < 20 and int(user) <= _UID_MAX
    return cri_pb2.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size,
        uid=cri_pb2.Int64Value(value=int(user)) if numeric else None,
        username="" if numeric else user,
        pinned=bool(image.pinned),
    )
