"""`containerd.services.content.v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty

from moorage_api.core import Core
from moorage_api.remote.answers import CHUNK, ContentAnswers, extent
from moorage_api.rpc import Call, Service
from moorage_api.types import check_digest
from moorage_api.wire import content_pb2 as pb
from mooraged.services.content_write import WriteHandler

T = TypeVar("T")


class Content(WriteHandler):
    """The handlers: those of `ContentAnswers` on the content of the caller's namespace."""

    async def Info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        return await self._answer(call, lambda content: content.Info(request))

    async def Update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        return await self._answer(call, lambda content: content.Update(request))

    async def List(self, request: pb.ListContentRequest, call: Call) -> AsyncIterator[pb.ListContentResponse]:
        for page in await self._answer(call, lambda content: list(content.List(request))):
            yield page

    async def Delete(self, request: pb.DeleteContentRequest, call: Call) -> Empty:
        return await self._answer(call, lambda content: content.Delete(request))

    async def Read(self, request: pb.ReadContentRequest, call: Call) -> AsyncIterator[pb.ReadContentResponse]:
        """A thread's work a message, so that a slow reader holds none of them."""
        check_digest(request.digest)
        async with self._opened(call, lambda space: space.content.open(request.digest)) as blob:
            offset, end = extent(request, blob.size)
            while offset < end and (data := await self._core.run(blob.pread, min(CHUNK, end - offset), offset)):
                yield pb.ReadContentResponse(offset=offset, data=data)
                offset += len(data)

    async def Status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        return await self._answer(call, lambda content: content.Status(request))

    async def ListStatuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        return await self._answer(call, lambda content: content.ListStatuses(request))

    async def Abort(self, request: pb.AbortRequest, call: Call) -> Empty:
        return await self._answer(call, lambda content: content.Abort(request))

    async def _answer(self, call: Call, answer: Callable[[ContentAnswers], T]) -> T:
        return await self._run(call, lambda space: answer(ContentAnswers(space.content)))


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Content"], Content(core))
