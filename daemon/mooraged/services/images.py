"""`containerd.services.images.v1`."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import fieldpaths, image_from_wire, image_to_wire
from moorage_api.core import Core
from moorage_api.errors import InvalidArgument
from moorage_api.rpc import Call, Service
from moorage_api.wire import images_pb2 as pb
from mooraged.services.handlers import Handlers


class Images(Handlers):
    """The handlers; `collect` runs the garbage collector and returns when it has finished."""

    def __init__(self, core: Core, collect: Callable[[], object]) -> None:
        super().__init__(core)
        self._collect = collect

    async def Get(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        image = await self._run(call, lambda space: space.images.get(request.name))
        return pb.GetImageResponse(image=image_to_wire(image))

    async def List(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        images = await self._run(call, lambda space: space.images.list(list(request.filters)))
        return pb.ListImagesResponse(images=map(image_to_wire, images))

    async def Create(self, request: pb.CreateImageRequest, call: Call) -> pb.CreateImageResponse:
        _require_name(request.image)
        image = await self._run(call, lambda space: space.images.create(image_from_wire(request.image)))
        return pb.CreateImageResponse(image=image_to_wire(image))

    async def Update(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        _require_name(request.image)
        given, paths = image_from_wire(request.image), fieldpaths(request.update_mask)
        image = await self._run(call, lambda space: space.images.update(given, paths))
        return pb.UpdateImageResponse(image=image_to_wire(image))

    async def Delete(self, request: pb.DeleteImageRequest, call: Call) -> Empty:
        await self._run(call, lambda space: space.images.delete(request.name, request.target.digest))
        if request.sync:
            await self._core.run(self._collect)
        return Empty()


def _require_name(image: pb.Image) -> None:
    if not image.name:
        raise InvalidArgument("the image's name is required")


def service(core: Core, collect: Callable[[], object]) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Images"], Images(core, collect))
