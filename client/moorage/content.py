"""The content of a namespace: blobs by digest (`containerd.services.content.v1`)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc

from moorage.convert import nanoseconds
from moorage.session import DEADLINE, Session
from moorage.stdio import Source
from moorage_api.content import Info, IngestStatus
from moorage_api.errors import MoorageError, ResourceExhausted, from_code
from moorage_api.wire import content_pb2 as wire
from moorage_api.wire.content_pb2_grpc import ContentStub

if TYPE_CHECKING:
    from grpc import aio

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
        pieces = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))

        async def source() -> bytes:
            return next(pieces, b"")

        await self._ingest(f"moorage-{digest}", source, labels, DEADLINE)
        return digest

    async def write_from(self, source: Source, labels: Mapping[str, str] | None = None) -> tuple[str, int]:
        """Store what `source` gives, to its end; returns the digest and the size. As `write` otherwise; on an error, or
        cancelled, nothing stays."""
        ref = f"moorage-{uuid.uuid4().hex}"
        try:
            return await self._ingest(ref, source, labels)
        except BaseException:
            with contextlib.suppress(MoorageError):
                await self.abort(ref)
            raise

    async def _ingest(
        self, ref: str, source: Source, labels: Mapping[str, str] | None, timeout: float | None = None
    ) -> tuple[str, int]:
        call = self._stub.Write(metadata=self._session.metadata, timeout=timeout)
        upload = _Upload(call, ref)
        try:
            # A call that the daemon has ended takes no more: its status tells why.
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await upload.send(source)
                await upload.commit(labels or {})
            code = await call.code()
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.ALREADY_EXISTS):
                raise from_code(code.value[0], await call.details())
        finally:
            call.cancel()
        return upload.digest, upload.size

    async def abort(self, ref: str) -> None:
        """Give up what is being written, with all that has come of it. `NotFound`."""
        await self._session.call(self._stub.Abort, wire.AbortRequest(ref=ref))

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


class _Upload:
    """What goes to the daemon as one ingest."""

    def __init__(self, call: aio.StreamStreamCall[wire.WriteContentRequest, Any], ref: str) -> None:
        self._call = call
        self._ref = ref
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    async def send(self, source: Source) -> None:
        while data := await source():
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                await self._say(
                    wire.WriteContentRequest(action=wire.WRITE, ref=self._ref, data=piece, offset=self.size)
                )
                self._hash.update(piece)
                self.size += len(piece)

    async def commit(self, labels: Mapping[str, str]) -> None:
        end = wire.WriteContentRequest(action=wire.COMMIT, ref=self._ref, total=self.size, offset=self.size)
        end.expected = self.digest
        end.labels.update(labels)
        await self._say(end)
        await self._call.done_writing()
        await self._call.read()

    async def _say(self, request: wire.WriteContentRequest) -> None:
        await self._call.write(request)
        await self._call.read()


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
