"""`Content.Write`: one session with one ingest.

The first message names the ingest and opens it; each message then asks for its state (STAT), appends data (WRITE) or
makes it a blob (COMMIT), and gets one answer. What was written stays when the session ends, and the next one resumes it.
"""

from __future__ import annotations

import threading

from moorage_api.content import ContentStore, IngestStatus, Writer
from moorage_api.convert import timestamp
from moorage_api.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, OutOfRange
from moorage_api.types import check_digest
from moorage_api.wire import content_pb2 as pb


class WriteSession:
    """An open ingest and what its writer has announced. A step runs in a thread; a lock keeps `close` out of it."""

    def __init__(self, store: ContentStore, first: pb.WriteContentRequest) -> None:
        """Open the ingest that the first message names. Errors as `ContentStore.writer`."""
        if not first.ref:
            raise InvalidArgument("the first message names no ingest: ref is empty")
        if first.expected:
            check_digest(first.expected)
        self._store = store
        self._ref = first.ref
        self._total = first.total
        self._expected = first.expected
        self._lock = threading.Lock()
        self._writer: Writer = store.writer(first.ref, first.total, first.expected)

    def close(self) -> None:
        """Release the ingest, once the step that runs has ended."""
        with self._lock:
            self._writer.close()

    def step(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        """Answer one message. Any error ends the session."""
        with self._lock:
            status = self._writer.status()
            self._announce(request)
            if request.action == pb.STAT:
                return self._response(pb.STAT, status.offset, status, total=self._total)
            offset = self._append(request, status.offset)
            if request.action != pb.COMMIT:
                return self._response(request.action, offset, status)
            info = self._writer.commit(self._total, self._expected, dict(request.labels))
            return pb.WriteContentResponse(action=pb.COMMIT, offset=offset, digest=info.digest)

    def _announce(self, request: pb.WriteContentRequest) -> None:
        """Take what the message says of the whole: a blob that is there already ends the ingest."""
        if request.total > 0:
            self._total = request.total
        if not request.expected:
            return
        self._expected = check_digest(request.expected)
        try:
            self._store.info(self._expected)
        except NotFound:
            return
        self._writer.close()
        self._store.abort(self._ref)
        raise AlreadyExists(f"blob {self._expected} exists")

    def _append(self, request: pb.WriteContentRequest, offset: int) -> int:
        """Write the message's data at its offset, which is where the ingest ends or zero to start again."""
        if request.offset not in (0, offset):
            raise OutOfRange(f"write at {request.offset} of ingest {self._ref!r}, which ends at {offset}")
        if request.offset == 0 and offset > 0:
            self._writer.truncate(0)
            offset = 0
        if request.data:
            written = self._writer.write(request.data)
            if written != len(request.data):
                raise DataLoss(f"wrote {written} of {len(request.data)} bytes to ingest {self._ref!r}")
            offset += written
        return offset

    def _response(
        self, action: pb.WriteAction.ValueType, offset: int, status: IngestStatus, total: int = 0
    ) -> pb.WriteContentResponse:
        return pb.WriteContentResponse(
            action=action,
            offset=offset,
            total=total,
            started_at=timestamp(status.started_at),
            updated_at=timestamp(status.updated_at),
            digest=self._writer.digest(),
        )
