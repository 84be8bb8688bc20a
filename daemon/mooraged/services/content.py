"""`containerd.services.content.v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from moorage_api.convert import (
    content_info_from_wire,
    content_info_to_wire,
    fieldpaths,
    ingest_to_wire,
    pages,
)
from moorage_api.core import Core
from moorage_api.errors import OutOfRange
from moorage_api.rpc import Call, Service
from moorage_api.types import check_digest
from moorage_api.wire import content_pb2 as pb
from mooraged.services.content_write import WriteHandler

# Bytes in one message of a read. Clients accept 4 MiB at least.
_CHUNK = 1 << 20


class Content(WriteHandler):
    """The handlers."""

    async def Info(self, request: pb.InfoRequest, call: Call) -> pb.InfoResponse:
        check_digest(request.digest)
        info = await self._run(call, lambda space: space.content.info(request.digest))
        return pb.InfoResponse(info=content_info_to_wire(info))

    async def Update(self, request: pb.UpdateRequest, call: Call) -> pb.UpdateResponse:
        check_digest(request.info.digest)
        given, paths = content_info_from_wire(request.info), fieldpaths(request.update_mask)
        info = await self._run(call, lambda space: space.content.update(given, paths))
        return pb.UpdateResponse(info=content_info_to_wire(info))

    async def List(self, request: pb.ListContentRequest, call: Call) -> AsyncIterator[pb.ListContentResponse]:
        filters = list(request.filters)
        for page in pages(await self._run(call, lambda space: list(space.content.walk(filters)))):
            yield pb.ListContentResponse(info=map(content_info_to_wire, page))

    async def Delete(self, request: pb.DeleteContentRequest, call: Call) -> Empty:
        check_digest(request.digest)
        await self._run(call, lambda space: space.content.delete(request.digest))
        return Empty()

    async def Read(self, request: pb.ReadContentRequest, call: Call) -> AsyncIterator[pb.ReadContentResponse]:
        """`size` zero reads to the end, and so does one that goes beyond it."""
        check_digest(request.digest)
        async with self._opened(call, lambda space: space.content.open(request.digest)) as blob:
            offset = max(request.offset, 0)
            if offset > blob.size:
                raise OutOfRange(f"read at {offset} of {request.digest}, which has {blob.size} bytes")
            end = blob.size if request.size <= 0 else min(offset + request.size, blob.size)
            while offset < end:
                data = await self._core.run(blob.pread, min(_CHUNK, end - offset), offset)
                if not data:
                    break
                yield pb.ReadContentResponse(offset=offset, data=data)
                offset += len(data)

    async def Status(self, request: pb.StatusRequest, call: Call) -> pb.StatusResponse:
        status = await self._run(call, lambda space: space.content.status(request.ref))
        return pb.StatusResponse(status=ingest_to_wire(status))

    async def ListStatuses(self, request: pb.ListStatusesRequest, call: Call) -> pb.ListStatusesResponse:
        statuses = await self._run(call, lambda space: space.content.statuses(list(request.filters)))
        return pb.ListStatusesResponse(statuses=map(ingest_to_wire, statuses))

    async def Abort(self, request: pb.AbortRequest, call: Call) -> Empty:
        await self._run(call, lambda space: space.content.abort(request.ref))
        return Empty()


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Content"], Content(core))
