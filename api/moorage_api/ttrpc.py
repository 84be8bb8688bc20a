"""The ttrpc protocol without I/O: bytes in, events out (github.com/containerd/ttrpc, PROTOCOL.md).

A frame is a header of ten bytes and a payload: length (4, big-endian), stream id (4, odd when the client opened it),
type (1), flags (1). A request carries a `ttrpc.Request`, a response a `ttrpc.Response`, data frames the messages of a
stream. `Server` and `Client` hold the state of one connection; whoever owns the socket feeds them what arrives and
sends what they return.

    server = Server()
    for event in server.receive(sock.recv(65536)):
        if isinstance(event, RequestReceived):
            sock.sendall(server.respond(event.stream, answer))

A `ProtocolError` means that the connection can't go on. Everything else that is wrong with one stream is an event, or
an answer to that stream alone. Nothing here imports asyncio, so that a shim can stand on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct

from google.protobuf.message import DecodeError

from moorage_api.errors import Code, InvalidArgument, MoorageError, ResourceExhausted, from_code
from moorage_api.wire.ttrpc_pb2 import KeyValue, Request, Response

MAX_MESSAGE = 4 << 20
"""Bytes of payload that one frame may carry."""

_HEADER = Struct(">IIBB")
_NANOSECONDS = 1_000_000_000
_MAX_STREAM = 0xFFFFFFFF


class ProtocolError(MoorageError):
    """The peer broke the framing; close the connection."""

    code = Code.INTERNAL


class FrameType(IntEnum):
    """The kinds of frames."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(IntFlag):
    """The flags of a frame: on a request or data, what its sender will still send on the stream."""

    NONE = 0
    REMOTE_CLOSED = 1
    REMOTE_OPEN = 2
    NO_DATA = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `payload` is None when it was longer than `MAX_MESSAGE` and has been skipped."""

    stream: int
    type: int
    flags: int
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A call. `timeout` is in seconds, None without one; `open` tells that data frames of the client follow."""

    stream: int
    service: str
    method: str
    payload: bytes
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    open: bool = False


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The end of a call: its payload, or its error."""

    stream: int
    payload: bytes
    error: MoorageError | None = None


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A message on a stream; None where the frame only closes it. After `ended` the peer sends no more data."""

    stream: int
    payload: bytes | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes that must be sent: the answer to a frame that could not be understood."""

    data: bytes


ServerEvent = RequestReceived | DataReceived | Reply
ClientEvent = ResponseReceived | DataReceived


def encode(stream: int, kind: FrameType, payload: bytes, flags: int = 0) -> bytes:
    """One frame as bytes. `ResourceExhausted` when the payload is longer than `MAX_MESSAGE`."""
    if len(payload) > MAX_MESSAGE:
        raise ResourceExhausted(f"message of {len(payload)} bytes is longer than ttrpc's {MAX_MESSAGE}")
    return _HEADER.pack(len(payload), stream, kind, flags) + payload


def encode_data(stream: int, payload: bytes | None, *, last: bool = False) -> bytes:
    """One data frame; without a payload it only closes this side of the stream."""
    flags = (Flag.REMOTE_CLOSED if last else Flag.NONE) | (Flag.NO_DATA if payload is None else Flag.NONE)
    return encode(stream, FrameType.DATA, payload or b"", flags)


class FrameDecoder:
    """Cuts a stream of bytes into frames. Holds at most one unfinished frame."""

    __slots__ = ("_buffer", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    @property
    def idle(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return not self._buffer and not self._skip

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes, give the frames that they complete. One that is too long is given at once, without payload."""
        self._buffer += data
        while True:
            if self._skip:
                skipped = min(self._skip, len(self._buffer))
                del self._buffer[:skipped]
                self._skip -= skipped
            if self._skip or len(self._buffer) < _HEADER.size:
                return
            length, stream, kind, flags = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + length
            if length > MAX_MESSAGE:
                self._skip = end
                yield Frame(stream, kind, flags, None)
            elif len(self._buffer) < end:
                return
            else:
                payload = bytes(self._buffer[_HEADER.size : end])
                del self._buffer[:end]
                yield Frame(stream, kind, flags, payload)


class Server:
    """The answering side of one connection."""

    __slots__ = ("_decoder", "_last", "_open", "_receiving")

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._last = 0
        self._open: set[int] = set()
        self._receiving: set[int] = set()

    @property
    def pending(self) -> int:
        """Calls that have not been answered."""
        return len(self._open)

    def receive(self, data: bytes) -> Iterator[ServerEvent]:
        """Take bytes from the client; `ProtocolError` when the connection can't go on."""
        for frame in self._decoder.feed(data):
            if frame.type == FrameType.REQUEST:
                yield self._request(frame)
            elif frame.type == FrameType.DATA:
                event = self._data(frame)
                if event is not None:
                    yield event
            else:
                raise ProtocolError(f"unexpected ttrpc frame type {frame.type} from a client")

    def respond(self, stream: int, payload: bytes) -> bytes:
        """The bytes that end a call well; an answer too long for a frame ends it with `ResourceExhausted`."""
        self._finish(stream)
        message = Response(payload=payload).SerializeToString()
        if len(message) > MAX_MESSAGE:
            return _error(stream, Code.RESOURCE_EXHAUSTED, f"answer of {len(payload)} bytes is too long for ttrpc")
        return encode(stream, FrameType.RESPONSE, message)

    def fail(self, stream: int, error: MoorageError) -> bytes:
        """The bytes that end a call with an error."""
        self._finish(stream)
        return _error(stream, error.code, error.message)

    def send(self, stream: int, payload: bytes | None, *, last: bool = False) -> bytes:
        """The bytes of one message of a streamed answer. `InvalidArgument` when the call has ended."""
        if stream not in self._open:
            raise InvalidArgument(f"ttrpc stream {stream} is not open")
        return encode_data(stream, payload, last=last)

    def _finish(self, stream: int) -> None:
        self._open.discard(stream)
        self._receiving.discard(stream)

    def _request(self, frame: Frame) -> RequestReceived | Reply:
        stream = frame.stream
        if stream % 2 == 0:
            return Reply(_error(stream, Code.INVALID_ARGUMENT, f"stream id {stream} of a client must be odd"))
        if stream <= self._last:
            return Reply(_error(stream, Code.INVALID_ARGUMENT, f"stream id {stream} was used before"))
        self._last = stream
        if frame.payload is None:
            return Reply(_error(stream, Code.RESOURCE_EXHAUSTED, f"request is longer than {MAX_MESSAGE} bytes"))
        try:
            request = Request.FromString(frame.payload)
        except DecodeError:
            return Reply(_error(stream, Code.INVALID_ARGUMENT, "request is no ttrpc.Request message"))
        self._open.add(stream)
        is_open = bool(frame.flags & Flag.REMOTE_OPEN)
        if is_open:
            self._receiving.add(stream)
        return RequestReceived(
            stream,
            request.service,
            request.method,
            request.payload,
            request.timeout_nano / _NANOSECONDS if request.timeout_nano > 0 else None,
            tuple((pair.key, pair.value) for pair in request.metadata),
            is_open,
        )

    def _data(self, frame: Frame) -> DataReceived | Reply | None:
        """A frame for a call that has ended crossed its answer on the way, and is dropped."""
        stream = frame.stream
        if stream > self._last:
            return Reply(_error(stream, Code.INVALID_ARGUMENT, f"data for stream {stream}, which was never opened"))
        if stream not in self._open:
            return None
        if stream not in self._receiving:
            return Reply(self.fail(stream, InvalidArgument(f"data for stream {stream}, which takes none")))
        if frame.payload is None:
            return Reply(self.fail(stream, ResourceExhausted(f"message is longer than {MAX_MESSAGE} bytes")))
        event = _data_event(frame)
        if event.ended:
            self._receiving.discard(stream)
        return event


class Client:
    """The calling side of one connection."""

    __slots__ = ("_decoder", "_next", "_open")

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._next = 1
        self._open: set[int] = set()

    @property
    def pending(self) -> int:
        """Calls without an answer so far."""
        return len(self._open)

    @property
    def exhausted(self) -> bool:
        """Whether the stream ids are used up; open a new connection then."""
        return self._next > _MAX_STREAM

    def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        streaming: bool = False,
    ) -> tuple[int, bytes]:
        """Open a call; returns its stream and the bytes to send. With `streaming`, data frames may follow (`send`).

        `ResourceExhausted` when the request is longer than `MAX_MESSAGE`; the connection stays usable.
        """
        request = Request(service=service, method=method, payload=payload)
        if timeout is not None:
            request.timeout_nano = max(1, int(timeout * _NANOSECONDS))
        request.metadata.extend(KeyValue(key=key, value=value) for key, value in (metadata or {}).items())
        flags = Flag.REMOTE_OPEN if streaming else Flag.NONE
        data = encode(self._next, FrameType.REQUEST, request.SerializeToString(), flags)
        stream = self._next
        self._next += 2
        self._open.add(stream)
        return stream, data

    def send(self, stream: int, payload: bytes | None, *, last: bool = False) -> bytes:
        """The bytes of one message of a streamed request. `InvalidArgument` when the call has ended."""
        if stream not in self._open:
            raise InvalidArgument(f"ttrpc stream {stream} is not open")
        return encode_data(stream, payload, last=last)

    def forget(self, stream: int) -> None:
        """Wait no longer for a call's answer: it is dropped when it comes. (ttrpc has no way to cancel a call.)"""
        self._open.discard(stream)

    def receive(self, data: bytes) -> Iterator[ClientEvent]:
        """Take bytes from the server; `ProtocolError` when the connection can't go on."""
        for frame in self._decoder.feed(data):
            if frame.type not in (FrameType.RESPONSE, FrameType.DATA):
                raise ProtocolError(f"unexpected ttrpc frame type {frame.type} from a server")
            if frame.stream not in self._open:
                continue
            if frame.type == FrameType.DATA and frame.payload is not None:
                yield _data_event(frame)
            else:
                self._open.discard(frame.stream)
                yield _response_event(frame)


def _data_event(frame: Frame) -> DataReceived:
    payload = None if frame.flags & Flag.NO_DATA else frame.payload
    return DataReceived(frame.stream, payload, bool(frame.flags & Flag.REMOTE_CLOSED))


def _response_event(frame: Frame) -> ResponseReceived:
    if frame.payload is None:
        return ResponseReceived(frame.stream, b"", ResourceExhausted(f"answer is longer than {MAX_MESSAGE} bytes"))
    try:
        response = Response.FromString(frame.payload)
    except DecodeError as error:
        raise ProtocolError("answer is no ttrpc.Response message") from error
    if response.status.code:
        return ResponseReceived(frame.stream, b"", from_code(response.status.code, response.status.message))
    return ResponseReceived(frame.stream, response.payload)


def _error(stream: int, code: Code, message: str) -> bytes:
    response = Response()
    response.status.code = code
    # What an OCI runtime says of a file need not be Unicode, which protobuf insists on.
    response.status.message = message[: MAX_MESSAGE // 8].encode(errors="backslashreplace").decode()
    return encode(stream, FrameType.RESPONSE, response.SerializeToString())
