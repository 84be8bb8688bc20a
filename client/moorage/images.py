"""The images of a namespace (`containerd.services.images.v1`)."""

from __future__ import annotations

from collections.abc import Sequence

from moorage.convert import from_descriptor, mask, nanoseconds, to_descriptor
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
        return _from_image(response.image)

    async def list(self, *filters: str) -> list[Image]:
        """Those that match any of the filters (containerd's filter grammar); without filters all."""
        response = await self._session.call(self._stub.List, wire.ListImagesRequest(filters=filters))
        return [_from_image(image) for image in response.images]

    async def create(self, image: Image) -> Image:
        """`AlreadyExists`, `InvalidArgument`."""
        response = await self._session.call(self._stub.Create, wire.CreateImageRequest(image=_to_image(image)))
        return _from_image(response.image)

    async def update(self, image: Image, fieldpaths: Sequence[str] = ()) -> Image:
        """`NotFound`."""
        request = wire.UpdateImageRequest(image=_to_image(image), update_mask=mask(list(fieldpaths)))
        return _from_image((await self._session.call(self._stub.Update, request)).image)

    async def delete(self, name: str, *, target: Descriptor | None = None, sync: bool = False) -> None:
        """Forget the name; its content goes with the next collection, or before this returns with `sync`.

        `NotFound`, also where `target` is given and the image is another by now.
        """
        request = wire.DeleteImageRequest(name=name, sync=sync, target=to_descriptor(target) if target else None)
        await self._session.call(self._stub.Delete, request)


def _from_image(message: wire.Image) -> Image:
    return Image(
        name=message.name,
        target=from_descriptor(message.target),
        labels=dict(message.labels),
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
    )


def _to_image(value: Image) -> wire.Image:
    return wire.Image(name=value.name, target=to_descriptor(value.target), labels=dict(value.labels))
