"""The writer of an ingest in another process: one `Content.Write` call, a message and an answer at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import grpc

from moorage_api.closing import Closing
from moorage_api.content import Info, IngestStatus
from moorage_api.convert import nanoseconds
from moorage_api.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    MoorageError,
    OutOfRange,
    Unavailable,
    Unimplemented,
)
from moorage_api.remote.channel import Channel
from moorage_api.remote.status import from_rpc_error
from moorage_api.types import Labels, check_digest
from moorage_api.wire import content_pb2 as pb
from moorage_api.wire.content_pb2_grpc import ContentStub

_CHUNK = 1 << 20


class RemoteWriter(Closing):
    """`moorage_api.content.Writer` over a session. Any error of the other side ends the session."""

    def __init__(self, channel: Channel, stub: ContentStub, ref: str, total: int, expected: str) -> None:
        """Open the ingest. Errors as `ContentStore.writer`."""
        if expected:
            check_digest(expected)
        self._channel = channel
        self._requests: queue.SimpleQueue[pb.WriteContentRequest | None] = queue.SimpleQueue()
        self._closed = False
        self._status = IngestStatus(ref, 0, total, expected)
        self._call = channel.session(stub.Write, self._sent())
        self._digest = ""
        self._step(pb.WriteContentRequest(action=pb.STAT, ref=ref, total=total, expected=expected))

    def status(self) -> IngestStatus:
        return self._status

    def digest(self) -> str:
        return self._digest

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK):
            piece = bytes(view[start : start + _CHUNK])
            self._step(pb.WriteContentRequest(action=pb.WRITE, offset=self._status.offset, data=piece))
        return len(view)

    def truncate(self, size: int) -> None:
        """To nothing, or not at all: the wire knows no other."""
        if size > self._status.offset:
            raise OutOfRange(f"ingest {self._status.ref!r}: cut to {size}, has {self._status.offset} bytes")
        if size == self._status.offset:
            return
        if size:
            raise Unimplemented(f"ingest {self._status.ref!r}: {self._channel.peer} can only cut it to nothing")
        self._step(pb.WriteContentRequest(action=pb.WRITE, offset=0))

    def commit(self, size: int = 0, expected: str = "", labels: Labels | None = None) -> Info:
        offset = self._status.offset
        try:
            if expected:
                check_digest(expected)
            request = pb.WriteContentRequest(
                action=pb.COMMIT, offset=offset, total=size, expected=expected, labels=labels or {}
            )
            response = self._step(request)
        finally:
            self.close()
        return Info(response.digest, offset, labels=dict(labels or {}))

    def close(self) -> None:
        """End the session, and wait until the other side has released the ingest."""
        if self._closed:
            return
        self._closed = True
        self._requests.put(None)
        with self._deadline():
            try:
                for _ in self._call:
                    pass
            except grpc.RpcError:
                # However it ended, the ingest is released; what had failed was raised by the step that failed.
                return

    def _sent(self) -> Iterator[pb.WriteContentRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _step(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        if self._closed:
            raise FailedPrecondition(f"ingest {self._status.ref!r}: its writer is closed")
        self._requests.put(request)
        try:
            with self._deadline():
                response: pb.WriteContentResponse = next(self._call)
        except StopIteration:
            self.close()
            raise Unavailable(f"{self._channel.peer} ended the session with ingest {self._status.ref!r}") from None
        except grpc.RpcError as error:
            late = self._call.code() is grpc.StatusCode.CANCELLED
            self.close()
            if late:
                raise DeadlineExceeded(f"{self._channel.peer} does not answer") from None
            raise self._named(from_rpc_error(error, self._channel.peer)) from None
        self._learn(response)
        return response

    def _named(self, error: MoorageError) -> MoorageError:
        """`error`, with the ingest's name where the other side left it out."""
        ref = self._status.ref
        return error if ref in str(error) else type(error)(f"ingest {ref!r}: {error}")

    def _learn(self, response: pb.WriteContentResponse) -> None:
        self._digest = response.digest
        self._status = replace(
            self._status,
            offset=response.offset,
            started_at=nanoseconds(response.started_at),
            updated_at=nanoseconds(response.updated_at),
        )

    def _deadline(self) -> _Deadline:
        return _Deadline(self._call, self._channel.timeout)


class _Deadline:
    """Cancels `call` where the block takes longer than `seconds`."""

    def __init__(self, call: Any, seconds: float) -> None:
        self._timer = threading.Timer(seconds, call.cancel)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
