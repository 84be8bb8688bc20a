"""HTTP/2's state of one connection (RFC 9113): frames in, calls started, frames out. No I/O of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from moorage_api.errors import MoorageError, ResourceExhausted
from mooraged.grpc_server import frames
from mooraged.grpc_server.application import Application
from mooraged.grpc_server.blocks import BlockReader
from mooraged.grpc_server.budget import Budget
from mooraged.grpc_server.failures import ConnectionFailed, ErrorCode, StreamFailed
from mooraged.grpc_server.flow import CONNECTION_WINDOW, EXCEEDED, STREAM_WINDOW, ReceiveWindow
from mooraged.grpc_server.headers import LIST_SIZE, HeaderReader, Request, refused, unserved
from mooraged.grpc_server.opening import Opening
from mooraged.grpc_server.peer import (
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PeerSettings,
)
from mooraged.grpc_server.sender import Output, Sender
from mooraged.grpc_server.stream import Stream

logger = logging.getLogger(__name__)

MAX_FRAME = 1 << 20
"""Few heads for large messages. DATA is passed on as it comes, so that this costs no memory."""
_STREAMS_MAX = 1 << 16
# Streams that were reset here, and on which the client may still have sent something.
_RESETS_KEPT = 4096
# Requests that wait for their handlers hold up the connection beyond this many bytes; those that are under way are refused.
_QUEUED_MAX = 64 << 20
_PARTIAL_MAX = 256 << 20
# A stream that is reset before this age, in seconds, may be one of a flood (CVE-2023-44487).
_YOUNG = 1.0

_INITIAL_SETTINGS = {
    MAX_CONCURRENT_STREAMS: _STREAMS_MAX,
    INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    MAX_FRAME_SIZE: MAX_FRAME,
    MAX_HEADER_LIST_SIZE: LIST_SIZE,
}


class Connection:
    """One client. `receive` takes what it sends; nothing is raised for what it does wrong."""

    def __init__(self, output: Output, application: Application) -> None:
        self.output = output
        self.application = application
        self.streams: dict[int, Stream] = {}
        self.tasks: set[asyncio.Future[Any]] = set()  # those of calls that have ended, too, until they have
        self._opening = Opening()
        self._frames = frames.FrameReader(MAX_FRAME)
        self._headers = HeaderReader()
        self._peer = PeerSettings()
        self._room = ReceiveWindow(CONNECTION_WINDOW)
        self._last = 0
        self._blocks = BlockReader()
        self._resets: dict[int, None] = {}
        self._queued = 0
        self._partial = 0
        self._leaving = False
        self._closed = False
        self._chatter = Budget("frames to no purpose", 10_000, 2_000)
        self.sender = Sender(output, self._peer, self._chatter)
        self._hasty = Budget("calls that are reset at once", 10_000, 1_000)
        self._handlers: dict[int, Callable[[int, int, bytes | memoryview], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }

    @property
    def opened(self) -> bool:
        """Whether the client has begun as HTTP/2 begins."""
        return self._opening.done

    def receive(self, data: memoryview) -> None:
        """Take in what the client sent. The buffer may be used again afterwards."""
        try:
            if not self._opening.done:
                data = self._open(data)
            for kind, flags, stream, payload in self._frames.feed(data):
                if self._closed:
                    return
                self._receive_frame(kind, flags, stream, payload)
        except ConnectionFailed as failure:
            self.fail(failure.code, str(failure))

    def fail(self, code: ErrorCode, message: str) -> None:
        """Tell the client why, and close. All its calls are cancelled."""
        if not self._closed:
            logger.info("client disconnected", extra={"code": code.name, "reason": message})
            self.output.write(frames.goaway(self._last, code, message))
            self.lost()
            self.output.close()

    def lost(self) -> None:
        """The client has gone."""
        self._closed = True
        for stream in list(self.streams.values()):
            stream.abandon()

    def leave(self) -> None:
        """Take no more calls. Those that are under way go on."""
        if not self._closed and not self._leaving:
            self._leaving = True
            self.output.write(frames.goaway(self._last, ErrorCode.NO_ERROR))

    # For streams.

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Send RST_STREAM; what still comes on the stream is ignored."""
        self.output.write(frames.reset(stream, code))
        self._resets[stream] = None
        if len(self._resets) > _RESETS_KEPT:
            del self._resets[next(iter(self._resets))]

    def run(self, stream: Stream) -> None:
        """Start the stream's handler. One that answers at once, and so closes the stream, waits for the client's last word."""
        at_once = stream.method.at_once
        if at_once is None or not stream.half_closed:
            self.keep(stream, self.application.run(stream))
        elif (pending := at_once(stream)) is not None:
            self.keep(stream, pending)

    def keep(self, stream: Stream, task: asyncio.Future[Any]) -> None:
        """Have the stream wait for this from now on."""
        stream.task = task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self.streams.pop(stream.id, None)

    def hold_queued(self, size: int) -> None:
        """Count requests that their handlers have not taken; negative once they have."""
        self._queued += size
        if size < 0:
            self._grant()

    def hold_partial(self, size: int) -> None:
        """Count what has come of requests that are not whole. `ResourceExhausted` where that is too much."""
        self._partial += size
        if size > 0 and self._partial > max(_PARTIAL_MAX, 2 * self.application.max_recv):
            raise ResourceExhausted("too many large requests at once on one connection")

    def _grant(self) -> None:
        if self._queued <= _QUEUED_MAX and not self._closed and (more := self._room.grant()):
            self.output.write(frames.window_update(0, more))

    # What comes in.

    def _open(self, data: memoryview) -> memoryview:
        """Take the preface off, and answer it. An empty rest where it is not whole."""
        rest = self._opening.feed(data)
        if self._opening.refusal:
            self.output.write(self._opening.refusal)
            self.lost()
            self.output.close()
        elif self._opening.done:
            more = CONNECTION_WINDOW - frames.DEFAULT_WINDOW
            self.output.write(frames.settings(_INITIAL_SETTINGS) + frames.window_update(0, more))
        return rest

    def _receive_frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        if self._blocks.stream and (kind != frames.CONTINUATION or stream != self._blocks.stream):
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a header block that is interrupted")
        if not self._peer.known and kind != frames.SETTINGS:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        handler = self._handlers.get(kind)
        try:
            if handler is None:  # frames of unknown types are ignored
                self._chatter.spend()
            else:
                handler(flags, stream, payload)
        except StreamFailed as failure:
            self._fail_stream(stream, failure.code)
        except MoorageError as failure:
            if (call := self.streams.get(stream)) is not None:
                call.end(failure.code, failure.message)

    def _fail_stream(self, number: int, code: ErrorCode) -> None:
        self._chatter.spend()
        stream = self.streams.get(number)
        if stream is None:
            self.reset(number, code)
        else:
            stream.reset(code)
            stream.cancel()

    def _on_headers(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        if not stream & 1:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        if (block := self._blocks.headers(flags, stream, payload)) is not None:
            self._on_block(block.stream, block.last, block.data)

    def _on_continuation(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        if (block := self._blocks.continuation(flags, stream, payload)) is not None:
            self._on_block(block.stream, block.last, block.data)

    def _on_block(self, number: int, last: bool, block: bytes) -> None:
        """A whole header block. It is read in any case: HPACK's state is that of all blocks."""
        stream = self.streams.get(number)
        if stream is None and number > self._last:
            self._last = number
            self._on_request(number, last, self._headers.request(block))
            return
        self._headers.fields(block)
        if stream is not None:
            if not last and not stream.half_closed:
                raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
            stream.receive_end()
        elif number not in self._resets:
            # The last one has ended; earlier ones may never have been opened.
            code = ErrorCode.STREAM_CLOSED if number == self._last else ErrorCode.PROTOCOL_ERROR
            raise ConnectionFailed(code, "HEADERS on a stream that is not open")

    def _on_request(self, number: int, last: bool, request: Request) -> None:
        if self._leaving:  # the client was told that this call is not served
            return
        if max(len(self.streams), len(self.tasks)) >= _STREAMS_MAX:
            raise StreamFailed(ErrorCode.REFUSED_STREAM, "too many streams")
        if request.refusal:
            self._refuse(number, last, refused(request.refusal))
            return
        try:
            if request.failure is not None:
                raise request.failure
            stream = Stream(self, number, request, self.application.find(request.path), self._peer.window)
        except MoorageError as failure:
            self._refuse(number, last, unserved(failure.code, failure.message))
            return
        self.streams[number] = stream
        if request.timeout is not None:
            self.application.limit(stream, request.timeout)
        if stream.method.client_streaming:
            self.run(stream)
        if last:
            stream.receive_end()

    def _refuse(self, number: int, last: bool, block: bytes) -> None:
        """Answer a call that never becomes one."""
        flags = frames.END_HEADERS | frames.END_STREAM
        self.output.write(frames.frame(frames.HEADERS, flags, number, block))
        if not last:
            self.reset(number, ErrorCode.NO_ERROR)

    def _on_data(self, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        if not self._room.take(size):
            raise ConnectionFailed(*EXCEEDED)
        self._grant()
        data = frames.unpadded(flags, payload)
        stream = self.streams.get(number)
        if stream is None:
            self._on_late_data(number)
            return
        last = bool(flags & frames.END_STREAM)
        if data:
            stream.receive_data(data, size, last)
        elif not last:
            self._chatter.spend()
        if stream.closed:
            return
        if last:
            stream.receive_end()
        else:
            stream.grant()

    def _on_late_data(self, number: int) -> None:
        """DATA on a stream that is not there: has it been reset here, or is the client wrong?"""
        self._check_known(number)
        if number not in self._resets:
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "DATA on a stream that has ended")

    def _check_known(self, number: int) -> None:
        """`ConnectionFailed` for a stream that was never opened."""
        if number > self._last or not number & 1:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a frame on a stream that is not open")

    def _on_priority(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        """Of no use here, but checked."""
        self._chatter.spend()
        if not stream:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != 5:
            raise StreamFailed(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")

    def _on_reset(self, flags: int, number: int, payload: bytes | memoryview) -> None:
        frames.check_size(payload, 4)
        self._check_known(number)
        stream = self.streams.get(number)
        if stream is None:
            self._chatter.spend()
            return
        if time.monotonic() - stream.born < _YOUNG:
            self._hasty.spend()
        stream.abandon()

    def _on_settings(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        self._chatter.spend()
        if stream:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            frames.check_size(payload, 0)
            return
        change = self._peer.update(payload)
        if change:
            # Each stream is visited: many such changes with many streams are work.
            self._chatter.spend(1 + len(self.streams) // 16)
            if not all(self.sender.widen_stream(each, change) for each in self.streams.values()):
                raise ConnectionFailed(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self.output.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.sender.pump()

    def _on_push(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        frames.check_size(payload, 8)
        if stream:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        self._chatter.spend()
        if not flags & frames.ACK:
            self.output.write(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))

    def _on_goaway(self, flags: int, stream: int, payload: bytes | memoryview) -> None:
        """The client wants no streams that the server opens: there are none."""
        self._chatter.spend()
        if stream:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")

    def _on_window_update(self, flags: int, number: int, payload: bytes | memoryview) -> None:
        frames.check_size(payload, 4)
        increment = int.from_bytes(payload, "big") & frames.WINDOW_MAX
        if number:
            self._check_known(number)
            stream = self.streams.get(number)
            if stream is None:
                return
            if not increment:
                raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            if not self.sender.widen_stream(stream, increment):
                raise StreamFailed(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        elif not increment:
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        elif not self.sender.widen(increment):
            raise ConnectionFailed(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self.sender.pump()
