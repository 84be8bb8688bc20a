"""One call: the requests that came for it, and what goes back. HTTP/2's stream as its handler sees it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorage_api.errors import Code, Internal, ResourceExhausted
from mooraged.grpc_server import frames, headers
from mooraged.grpc_server.failures import ErrorCode, StreamFailed
from mooraged.grpc_server.flow import EXCEEDED, STREAM_WINDOW, ReceiveWindow
from mooraged.grpc_server.messages import PREFIX, Message, MessageReader

if TYPE_CHECKING:
    from mooraged.grpc_server.connection import Connection

# What one message costs beside its bytes: a flood of empty ones must fill the window, too.
_OVERHEAD = 5
# Messages of more bytes, with their prefix, are sent by the loop.
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Method:
    """What is called by a path. `run` answers the call: it starts with the first request, or with the headers where the
    client streams. `at_once`, where there is one, is called in its place when the client has ended its side: it answers, or
    returns a future at whose end it will."""

    client_streaming: bool
    run: Callable[[Stream], Coroutine[Any, Any, None]]
    at_once: Callable[[Stream], asyncio.Future[Any] | None] | None = None


class Stream:
    """One call on a connection. A handler receives, sends, and finishes or responds; whatever ends the call before, cancels
    the handler's task."""

    __slots__ = (
        "_announced",
        "_connection",
        "_end",
        "_ids",
        "_length",
        "_partial",
        "_prefix",
        "_queue",
        "_queued",
        "_reader",
        "_reading",
        "_requested",
        "_reserved",
        "_room",
        "_sender",
        "_unsent",
        "_writing",
        "born",
        "closed",
        "deadline",
        "half_closed",
        "id",
        "message",
        "method",
        "request",
        "task",
        "timer",
        "window",
    )

    def __init__(self, connection: Connection, id: int, request: headers.Request, method: Method, window: int) -> None:
        """`window` is what the client lets be sent; the other arguments are what opened the stream."""
        self._connection = connection
        self._sender = connection.sender
        self.id = id
        self._ids = id.to_bytes(4, "big")
        self.request = request
        self.method = method
        self.window = window
        self.born = time.monotonic()
        self.closed = False
        self.message: Message = b""
        self._requested = False  # whether the request of a client that does not stream is there
        self.task: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.deadline: float | None = None
        self._announced = False  # whether the response's headers are sent
        self.half_closed = False  # whether the client has ended its side
        self._length = request.length
        self._room = ReceiveWindow(STREAM_WINDOW)
        self._reader = MessageReader(connection.application.max_recv, request.encoding)
        self._queue: deque[Message] = deque()  # requests of a client that streams, which the handler has not taken
        self._queued = 0
        self._partial = 0  # bytes of a request that is not whole
        self._prefix = b""
        self._unsent: memoryview | None = None
        # Where a thread may answer: taken by whoever ends the call; and what is counted in the windows for the answer.
        self._end: threading.Lock | None = None
        self._reserved = 0
        # Who waits for a request, and who for a response to be on its way: a handler may do both at a time.
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    # What comes in: called by the connection.

    def receive_data(self, data: bytes | memoryview, size: int, last: bool = False) -> None:
        """DATA, of which `size` counts for flow control; `receive_end` follows the last at once. `StreamFailed`, or
        `MoorageError` where the call cannot go on."""
        if self.half_closed:
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "data after its end")
        if not self._room.take(size):
            raise StreamFailed(*EXCEEDED)
        if self._length is not None:
            self._length -= len(data)
            if self._length < 0:
                raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "more data than content-length says")
        messages = self._reader.feed(data)
        if change := self._reader.partial - self._partial:
            self._partial += change
            self._connection.hold_partial(change)
        for message in messages:
            self._accept(message, last)

    def _accept(self, message: Message, last: bool) -> None:
        if self.method.client_streaming:
            self._queue.append(message)
            self._hold(len(message) + _OVERHEAD)
            _wake(self._reading)
        elif self._requested:
            raise Internal("more than one request for a call that takes one")
        else:
            self._requested, self.message = True, message
            if not last:
                self._connection.run(self)

    def receive_end(self) -> None:
        """The client sends no more. Errors as of `receive_data`."""
        if self.half_closed:
            raise StreamFailed(ErrorCode.STREAM_CLOSED, "a second end")
        if self._length:
            raise StreamFailed(ErrorCode.PROTOCOL_ERROR, "less data than content-length says")
        self.half_closed = True
        if self._partial:
            raise Internal("the request ends within a message")
        if self.method.client_streaming:
            _wake(self._reading)
        elif not self._requested:
            raise Internal("the call has no request")
        elif self.task is None:
            self._connection.run(self)

    def grant(self) -> None:
        """Let the client send more, as far as the handler has taken what came. A message that has only begun counts as taken
        where the handler has nothing else to take: it could never be whole otherwise."""
        held = self._queued + (self._partial if self._queue else 0)
        if not self.half_closed and (more := self._room.grant(held)):
            self._connection.output.write(frames.window_update(self.id, more))

    def _hold(self, size: int) -> None:
        self._queued += size
        self._connection.hold_queued(size)

    # The handler's side.

    async def receive(self) -> Message | None:
        """The next request of a client that streams, or None after the last, and when the call has ended: then the handler is
        cancelled, and whoever reads on its behalf should end."""
        while not self._queue:
            if self.half_closed or self.closed:
                return None
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        message = self._queue.popleft()
        self._hold(-len(message) - _OVERHEAD)
        if not self.closed:
            self.grant()
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; returns when all of it is on its way, which is when the client and the windows let it be.
        `ResourceExhausted` for one that is too large."""
        size = self._sendable(message)
        connection, sender = self._connection, self._sender
        if size <= sender.room(self):
            announced = (
                b"" if self._announced else frames.head(len(headers.RESPONSE), *_RESPONSE, self.id) + headers.RESPONSE
            )
            self._announced = True
            sender.spend(self, size)
            connection.output.write_soon(
                b"".join((announced, frames.head(size, frames.DATA, 0, self.id), PREFIX.pack(0, len(message)), message))
            )
            return
        if not self._announced:
            self._announced = True
            connection.output.write(frames.frame(*_RESPONSE, self.id, headers.RESPONSE))
        self._prefix = PREFIX.pack(0, len(message))
        self._unsent = memoryview(message)
        self._sender.send(self)
        while self.unsent:
            self._writing = asyncio.get_running_loop().create_future()
            await self._writing
        if self.closed:
            raise asyncio.CancelledError

    async def respond(self, message: bytes) -> None:
        """Send the only message, and finish. A small one is a single write. Errors as of `send`."""
        if not self.respond_at_once(message):
            await self.send(message)
            self.finish(Code.OK)

    def respond_soon(self, message: bytes) -> None:
        """As `respond`, from who cannot wait."""
        if not self.respond_at_once(message):
            self._connection.keep(self, asyncio.get_running_loop().create_task(self.respond(message)))

    def respond_at_once(self, message: bytes) -> bool:
        """As `respond`; False, and nothing is done, where the message has to wait for the client or the windows."""
        self._refund()
        size = self._sendable(message)
        sender = self._sender
        if self._announced or size > sender.room(self) or not self._claim():
            return False
        sender.spend(self, size)
        self._connection.output.write(self._only(message, size))
        self._close()
        return True

    def _only(self, message: bytes, size: int) -> bytes:
        """A response that is one message of `size` bytes with its prefix, from headers to trailers."""
        ids = self._ids
        announced = (_ANNOUNCE, ids, headers.RESPONSE)
        sent = (size.to_bytes(3, "big"), b"\0\0", ids, PREFIX.pack(0, len(message)), message)
        return b"".join((*announced, *sent, _FINISH, ids, _FINISHED))

    def reserve(self) -> bool:
        """Let `respond_from_thread` be called; False where the windows are too small for that."""
        if self._announced or self._sender.room(self) < _SMALL:
            return False
        self._sender.spend(self, _SMALL)
        self._end, self._reserved = threading.Lock(), _SMALL
        return True

    def respond_from_thread(self, message: bytes) -> bool:
        """As `respond_at_once`, from another thread than the loop's, for what has been reserved. After it, `conclude` is due on
        the loop. What else ends the call meanwhile either comes before it, or does nothing."""
        size = len(message) + PREFIX.size
        if size > _SMALL or not self._connection.output.write_from_thread(self._only(message, size), self._claim):
            return False
        self._reserved -= size
        return True

    def conclude(self) -> None:
        """A thread has sent the response."""
        self._close()

    def finish(self, code: Code, message: str = "") -> None:
        """End the call with a status. Where a message is only half sent, the stream is reset instead. Does nothing where the
        call has ended already."""
        if self.closed or not self._claim():
            return
        if self._unsent is not None and len(self._prefix) < PREFIX.size:
            self._reset(ErrorCode.CANCEL)
            return
        block = headers.trailers(code, message) if self._announced else headers.unserved(code, message)
        flags = frames.END_HEADERS | frames.END_STREAM
        self._connection.output.write(frames.frame(frames.HEADERS, flags, self.id, block))
        self._close()

    def end(self, code: Code, message: str) -> None:
        """End the call from outside its handler, which is cancelled."""
        self.finish(code, message)
        self.cancel()

    def expire(self) -> None:
        """The deadline has passed."""
        self.end(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def reset(self, code: ErrorCode) -> None:
        """End the stream without a status. The handler is not told."""
        if not self.closed and self._claim():
            self._reset(code)

    def _reset(self, code: ErrorCode) -> None:
        self._connection.reset(self.id, code)
        self.half_closed = True  # nothing that still comes is waited for
        self._close()

    def abandon(self) -> None:
        """The client has gone, or has reset the stream."""
        if not self.closed and self._claim():
            self.half_closed = True
            self._close()
        self.cancel()

    def cancel(self) -> None:
        """Cancel the handler, if it runs."""
        if self.task is not None:
            self.task.cancel()

    # What goes out: called by the connection.

    @property
    def unsent(self) -> int:
        """Bytes of the message that is being sent, with its prefix."""
        return 0 if self._unsent is None else len(self._prefix) + len(self._unsent)

    def cut(self, size: int, max_frame: int) -> Iterator[bytes | memoryview]:
        """The next `size` bytes of the message as frames."""
        assert self._unsent is not None
        while size > 0:
            length = min(size, max_frame)
            prefix = self._prefix[:length]
            yield frames.head(length, frames.DATA, 0, self.id)
            yield prefix
            self._prefix = self._prefix[length:]
            body = length - len(prefix)
            yield self._unsent[:body]
            self._unsent = self._unsent[body:]
            size -= length
        if not self._prefix and not self._unsent:
            self._unsent = None
            _wake(self._writing)

    # The rest.

    def _sendable(self, message: bytes) -> int:
        """The size of a message with its prefix. `ResourceExhausted` where it is too large; cancelled where nobody listens."""
        if self.closed:
            raise asyncio.CancelledError
        limit = self._connection.application.max_send
        if len(message) > limit:
            raise ResourceExhausted(f"Sent message larger than max ({len(message)} vs. {limit})")
        return len(message) + 5

    def _claim(self) -> bool:
        """Get the right to end the call. Only one gets it, on whichever thread."""
        return self._end is None or self._end.acquire(blocking=False)

    def _refund(self) -> None:
        if self._reserved:
            size, self._reserved = self._reserved, 0
            self._sender.refund(self, size)

    def _close(self) -> None:
        """Forget the stream. The client is asked to send no more if it has not ended its side (RFC 9113, section 8.1)."""
        self.closed = True
        self._refund()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.half_closed:
            self._connection.reset(self.id, ErrorCode.NO_ERROR)
        self._connection.hold_partial(-self._partial)
        self._hold(-self._queued)
        self._queue.clear()
        self._unsent = None
        _wake(self._reading)
        _wake(self._writing)
        self._connection.forget(self)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


_RESPONSE = (frames.HEADERS, frames.END_HEADERS)
# The heads of frames up to the stream's number: of the headers, and of trailers that say that all is well.
_FINISHED = headers.trailers(Code.OK, "")
_ANNOUNCE = frames.head(len(headers.RESPONSE), *_RESPONSE, 0)[:5]
_FINISH = frames.head(len(_FINISHED), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0)[:5]
