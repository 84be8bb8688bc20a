"""The content of a namespace: blobs by digest (`containerd.services.content.v1`)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from moorage.convert import nanoseconds
from moorage.session import Session
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import ResourceExhausted
from moorage_api.wire import content_pb2 as wire
from moorage_api.wire.content_pb2_grpc import ContentStub


class Content:
    """Blobs and what becomes one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = ContentStub(session.channel)

    async def info(self, digest: str) -> Info:
        """`NotFound`, `InvalidArgument` for a malformed digest."""
        response = await self._session.call(self._stub.Info, wire.InfoRequest(digest=digest))
        return _from_content_info(response.info)

    async def ingests(self, *filters: str) -> list[IngestStatus]:
        """What is being written."""
        response = await self._session.call(self._stub.ListStatuses, wire.ListStatusesRequest(filters=filters))
        return [_from_ingest(status) for status in response.statuses]

    async def read(self, digest: str, *, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """The blob's bytes from `offset`, in pieces; `size` zero means to the end. `NotFound`, `OutOfRange`."""
        request = wire.ReadContentRequest(digest=digest, offset=offset, size=size)
        async for response in self._session.stream(self._stub.Read, request):
            yield response.data

    async def read_all(self, digest: str, *, limit: int = 8 << 20) -> bytes:
        """A small blob, whole: a manifest, a configuration. `ResourceExhausted` beyond `limit` bytes, `NotFound`."""
        data = bytearray()
        async for piece in self.read(digest):
            data += piece
            if len(data) > limit:
                raise ResourceExhausted(f"content {digest} is larger than {limit} bytes")
        return bytes(data)

    async def delete(self, digest: str) -> None:
        """`NotFound`."""
        await self._session.call(self._stub.Delete, wire.DeleteContentRequest(digest=digest))

    async def list(self, *filters: str) -> list[Info]:
        """Those that match any of the filters (containerd's filter grammar); without filters all."""
        request = wire.ListContentRequest(filters=filters)
        return [
            _from_content_info(info)
            async for response in self._session.stream(self._stub.List, request)
            for info in response.info
        ]


def _from_content_info(message: wire.Info) -> Info:
    return Info(
        digest=message.digest,
        size=message.size,
        created_at=nanoseconds(message.created_at),
        updated_at=nanoseconds(message.updated_at),
        labels=dict(message.labels),
    )


def _from_ingest(message: wire.Status) -> IngestStatus:
    return IngestStatus(
        ref=message.ref,
        offset=message.offset,
        total=message.total,
        expected=message.expected,
        started_at=nanoseconds(message.started_at),
        updated_at=nanoseconds(message.updated_at),
    )
