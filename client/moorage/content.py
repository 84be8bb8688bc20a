"""The content of a namespace: blobs by digest (`containerd.services.content.v1`)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping

import grpc

from moorage.convert import nanoseconds
from moorage.session import DEADLINE, Session, translate
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import AlreadyExists, ResourceExhausted, from_code
from moorage_api.wire import content_pb2 as wire
from moorage_api.wire.content_pb2_grpc import ContentStub

_PIECE = 1 << 20


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

    async def write(self, data: bytes, labels: Mapping[str, str] | None = None) -> str:
        """Store a small blob whole; returns its digest. One that is there already is no error. Write it under a lease,
        or it is collected before anything refers to it."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        ref = f"moorage-{digest}"
        requests = [
            wire.WriteContentRequest(
                action=wire.WRITE, ref=ref, total=len(data), data=data[start : start + _PIECE], offset=start
            )
            for start in range(0, len(data), _PIECE)
        ]
        end = wire.WriteContentRequest(
            action=wire.COMMIT, ref=ref, total=len(data), expected=digest, offset=len(data), labels=dict(labels or {})
        )
        call = self._stub.Write(metadata=self._session.metadata, timeout=DEADLINE)
        try:
            for request in [*requests, end]:
                await call.write(request)
                await call.read()
            await call.done_writing()
            await call.read()
            if await call.code() is not grpc.StatusCode.OK:
                raise from_code((await call.code()).value[0], await call.details())
        except AlreadyExists:
            return digest
        except grpc.RpcError as error:
            failure = translate(error)
            if not isinstance(failure, AlreadyExists):
                raise failure from None
        finally:
            call.cancel()
        return digest

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
