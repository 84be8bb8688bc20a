"""`containerd.services.streaming.v1`: named streams of messages that other services read and write.

A client opens a stream with `StreamInit` and gets an empty message when it is registered; then it names the stream in
a request to another service, for example as the place where a transfer's progress goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from moorage_api.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from moorage_api.rpc import Call, Service
from moorage_api.wire import streaming_pb2

# Messages that wait for a client; beyond it a sender waits too, and what may be dropped is dropped.
_BACKLOG: Final = 1024
# A client that has connected says at once which stream it wants.
_INIT_SECONDS: Final = 30.0
_ID_MAX: Final = 256


M = TypeVar("M", bound=Message)


def pack(message: Message) -> Any:
    """An Any as containerd's clients expect it: the type URL is the bare full name."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def type_name(value: Any) -> str:
    """The full name of the type in an Any, whatever prefix its URL has."""
    return value.type_url.rpartition("/")[2]


def read(value: Any, kind: type[M]) -> M:
    """The message in an Any. `InvalidArgument` for one of another type, or damaged."""
    if type_name(value) != kind.DESCRIPTOR.full_name:
        raise InvalidArgument(f"{kind.DESCRIPTOR.full_name} was expected and {type_name(value)[:80]!r} came")
    try:
        return kind.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"the {kind.DESCRIPTOR.full_name} cannot be read: {error}") from None


class Stream:
    """The daemon's end of one stream. Belongs to the event loop."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self._reading = asyncio.Lock()
        self._outgoing: asyncio.Queue[Any | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def send(self, message: Message) -> None:
        """Send, when the client has taken enough of what was sent before. `Unavailable` when it has gone."""
        await self._room.wait()
        if self._closed:
            raise Unavailable("the client closed the stream")
        self._put(pack(message))

    def offer(self, message: Message) -> None:
        """Send what may be lost: dropped where the client is far behind, or gone."""
        if self._room.is_set() and not self._closed:
            self._put(pack(message))

    async def receive(self) -> Any | None:
        """The client's next message; None when there are no more."""
        async with self._reading:
            return await anext(self._requests, None)

    def close(self) -> None:
        """End the stream once the client has what was sent. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._room.set()
            self._outgoing.put_nowait(None)

    async def outgoing(self) -> AsyncIterator[Any]:
        """What goes to the client, until the stream is closed."""
        while (message := await self._outgoing.get()) is not None:
            if self._outgoing.qsize() < _BACKLOG:
                self._room.set()
            yield message

    def _put(self, message: Any) -> None:
        self._outgoing.put_nowait(message)
        if self._outgoing.qsize() >= _BACKLOG:
            self._room.clear()


class StreamManager:
    """The open streams by namespace and id. Belongs to the event loop."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], Stream] = {}

    def register(self, namespace: str, id: str, stream: Stream) -> None:
        """`AlreadyExists`, `InvalidArgument` for an empty or overlong id."""
        if not id or len(id) > _ID_MAX:
            raise InvalidArgument(f"a stream's id has 1 to {_ID_MAX} characters")
        if (namespace, id) in self._streams:
            raise AlreadyExists(f"stream {id!r} is open already")
        self._streams[namespace, id] = stream

    def get(self, namespace: str, id: str) -> Stream:
        """`NotFound`."""
        try:
            return self._streams[namespace, id]
        except KeyError:
            raise NotFound(f"stream {id!r} is not open") from None

    def forget(self, namespace: str, id: str) -> None:
        """The stream's id is free again."""
        self._streams.pop((namespace, id), None)


class Streaming:
    """The handlers: a call is one stream, for as long as it lasts."""

    def __init__(self, manager: StreamManager) -> None:
        self._manager = manager

    async def Stream(self, request: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        id = await _opening(request)
        namespace = call.namespace
        stream = Stream(request)
        self._manager.register(namespace, id, stream)
        try:
            yield pack(Empty())
            async for message in stream.outgoing():
                yield message
        finally:
            # Also when the client vanishes: this generator is then closed, and who sends or waits learns of it.
            self._manager.forget(namespace, id)
            stream.close()


async def _opening(requests: AsyncIterator[Any]) -> str:
    """The id in the first message."""
    try:
        async with asyncio.timeout(_INIT_SECONDS):
            first = await anext(requests, None)
    except TimeoutError:
        raise InvalidArgument(f"no StreamInit came within {_INIT_SECONDS:.0f} seconds") from None
    if first is None or type_name(first) != streaming_pb2.StreamInit.DESCRIPTOR.full_name:
        raise InvalidArgument("a stream opens with a StreamInit message")
    try:
        return streaming_pb2.StreamInit.FromString(first.value).id
    except DecodeError as error:
        raise InvalidArgument(f"the StreamInit message cannot be read: {error}") from None


def service(manager: StreamManager) -> Service:
    """What the daemon serves."""
    return Service(streaming_pb2.DESCRIPTOR.services_by_name["Streaming"], Streaming(manager))
