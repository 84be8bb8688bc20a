"""A content store in another process (`containerd.services.content.v1`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from moorage_api.closing import Closing
from moorage_api.content import Info, IngestStatus
from moorage_api.convert import (
    content_info_from_wire,
    content_info_to_wire,
    field_mask,
    ingest_from_wire,
)
from moorage_api.errors import FailedPrecondition, OutOfRange
from moorage_api.remote.channel import Channel
from moorage_api.remote.content_writer import RemoteWriter
from moorage_api.types import check_digest
from moorage_api.wire import content_pb2 as pb
from moorage_api.wire.content_pb2_grpc import ContentStub


class RemoteContentStore:
    """`moorage_api.content.ContentStore` over `channel`.

    Two rules the wire does not let it keep: a blob removed while open can no longer be read, and an ingest can be cut
    to nothing only.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = ContentStub(channel.grpc)

    def info(self, digest: str) -> Info:
        check_digest(digest)
        return content_info_from_wire(self._channel.call(self._stub.Info, pb.InfoRequest(digest=digest)).info)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        check_digest(info.digest)
        request = pb.UpdateRequest(info=content_info_to_wire(info), update_mask=field_mask(fieldpaths))
        return content_info_from_wire(self._channel.call(self._stub.Update, request).info)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        pages = list(self._channel.stream(self._stub.List, pb.ListContentRequest(filters=filters)))
        found = [content_info_from_wire(info) for page in pages for info in page.info]
        return iter(sorted(found, key=lambda info: info.digest))

    def delete(self, digest: str) -> None:
        check_digest(digest)
        self._channel.call(self._stub.Delete, pb.DeleteContentRequest(digest=digest))

    def open(self, digest: str) -> RemoteReader:
        return RemoteReader(self._channel, self._stub, self.info(digest))

    def status(self, ref: str) -> IngestStatus:
        return ingest_from_wire(self._channel.call(self._stub.Status, pb.StatusRequest(ref=ref)).status)

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        response = self._channel.call(self._stub.ListStatuses, pb.ListStatusesRequest(filters=filters))
        return sorted(map(ingest_from_wire, response.statuses), key=lambda status: status.ref)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> RemoteWriter:
        return RemoteWriter(self._channel, self._stub, ref, total, expected)

    def abort(self, ref: str) -> None:
        self._channel.call(self._stub.Abort, pb.AbortRequest(ref=ref))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


class RemoteReader(Closing):
    """An open blob: each read is a call."""

    def __init__(self, channel: Channel, stub: ContentStub, info: Info) -> None:
        self._channel = channel
        self._stub = stub
        self._info = info
        self._closed = False

    @property
    def size(self) -> int:
        return self._info.size

    @property
    def path(self) -> Path | None:
        return None

    def pread(self, length: int, offset: int) -> bytes:
        if self._closed:
            raise FailedPrecondition(f"blob {self._info.digest}: read after close")
        if offset > self.size:
            raise OutOfRange(f"read at {offset} of {self._info.digest}, which has {self.size} bytes")
        # On the wire, a size of zero reads to the end.
        wanted = min(length, self.size - offset)
        if wanted <= 0:
            return b""
        request = pb.ReadContentRequest(digest=self._info.digest, offset=offset, size=wanted)
        return b"".join(response.data for response in self._channel.stream(self._stub.Read, request))

    def close(self) -> None:
        self._closed = True
