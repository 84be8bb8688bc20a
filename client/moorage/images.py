"""The images of a namespace (`containerd.services.images.v1`)."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.convert import from_image, mask, to_descriptor, to_image
from moorage.session import Session
from moorage_api.images import Image
from moorage_api.types import Descriptor
from moorage_api.wire import images_pb2 as wire
from moorage_api.wire.images_pb2_grpc import ImagesStub


class Images:
    """Names for descriptors. The methods and their errors are those of `moorage_api.images.ImageStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = ImagesStub(session.channel)

    async def get(self, name: str) -> Image:
        """`NotFound`."""
        response = await self._session.call(self._stub.Get, wire.GetImageRequest(name=name))
        return from_image(response.image)

    async def list(self, *filters: str) -> list[Image]:
        """Those that match any of the filters (containerd's filter grammar); without filters all."""
        response = await self._session.call(self._stub.List, wire.ListImagesRequest(filters=filters))
        return [from_image(image) for image in response.images]

    async def create(self, image: Image) -> Image:
        """`AlreadyExists`, `InvalidArgument`."""
        response = await self._session.call(self._stub.Create, wire.CreateImageRequest(image=to_image(image)))
        return from_image(response.image)

    async def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """`NotFound`."""
        request = wire.UpdateImageRequest(image=to_image(image), update_mask=mask(list(fieldpaths)))
        return from_image((await self._session.call(self._stub.Update, request)).image)

    async def delete(self, name: str, *, target: Descriptor | None = None, sync: bool = False) -> None:
        """Forget the name; its content goes with the next collection, or before this returns with `sync`.

        `NotFound`, also where `target` is given and the image is another by now.
        """
        request = wire.DeleteImageRequest(name=name, sync=sync, target=to_descriptor(target) if target else None)
        await self._session.call(self._stub.Delete, request)
