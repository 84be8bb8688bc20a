"""The gRPC server on the daemon's Unix socket.

Services are added as `moorage_api.rpc.Service`: the methods come from the descriptor, the answers from the
implementation. Errors become status codes here and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Self

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from moorage_api.errors import (
    Cancelled,
    Code,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from moorage_api.remote.status import as_moorage_error
from moorage_api.rpc import LEASE_HEADER, NAMESPACE_HEADER, Encoded, Service
from moorage_api.types import check_identifier
from mooraged.futures import ThreadFuture
from mooraged.grpc_server.listener import Listener
from mooraged.grpc_server.messages import Message
from mooraged.grpc_server.stream import Method, Stream
from mooraged.logs import trace_call


class ServerCall:
    """`moorage_api.rpc.Call` over a stream."""

    __slots__ = ("__dict__", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def metadata(self) -> Mapping[str, str]:
        """The first value of each header: containerd's clients put the one that holds now before those that held."""
        return self._stream.request.metadata

    @cached_property
    def namespace(self) -> str:
        name = self.metadata.get(NAMESPACE_HEADER, "")
        if not name:
            raise FailedPrecondition("namespace is required")
        return check_identifier(name, "namespace")

    @cached_property
    def lease(self) -> str:
        return self.metadata.get(LEASE_HEADER, "")

    @property
    def remaining(self) -> float | None:
        deadline = self._stream.deadline
        return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())


class Server:
    """Serves services on one Unix socket. `add` comes before `start`."""

    def __init__(self, *, max_recv: int, max_send: int) -> None:
        self.max_recv = max_recv
        self.max_send = max_send
        self._services: dict[str, dict[str, Method]] = {}
        self._methods: dict[str, Method] = {}
        self._listener = Listener(self)
        # Streams whose next response is not there yet, and which may be ended at once: not those that are being sent to.
        self._waiting: set[Stream] = set()
        self._stopping = False

    def add(self, service: Service) -> None:
        """Serve `service`. `InvalidArgument` where a method has no implementation, or the name is taken."""
        name = service.name or service.descriptor.full_name
        if name in self._services:
            raise InvalidArgument(f"service {name} is served already")
        methods = {
            method.name: self._method(f"/{name}/{method.name}", method, service.implementation)
            for method in service.descriptor.methods
        }
        self._services[name] = methods
        self._methods.update({f"/{name}/{method}": made for method, made in methods.items()})

    async def start(self, address: str, *, uid: int = 0, gid: int = 0) -> None:
        """Bind the socket (mode 0600, or 0660 with a group) and serve. The caller holds the address's lock."""
        os.makedirs(os.path.dirname(address), mode=0o700, exist_ok=True)
        await self._listener.start(address, uid, gid)

    async def stop(self, grace: float) -> None:
        """Take no more calls, end the streams now, and give the other calls `grace` seconds."""
        self._stopping = True
        for stream in list(self._waiting):
            stream.end(Code.UNAVAILABLE, "the daemon is stopping")
        await self._listener.stop(grace)

    # `grpc_server.application.Application`.

    def find(self, path: str) -> Method:
        method = self._methods.get(path)
        if method is None:
            service, slash, name = path.removeprefix("/").rpartition("/")
            if not slash:
                raise Unimplemented(f"malformed method name: {path!r}")
            if service in self._services:
                raise Unimplemented(f"unknown method {name} for service {service}")
            raise Unimplemented(f"unknown service {service}")
        return method

    def run(self, stream: Stream) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(stream.method.run(stream))

    def limit(self, stream: Stream, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        stream.deadline = loop.time() + timeout
        stream.timer = loop.call_at(stream.deadline, stream.expire)

    # The handlers.

    def _method(self, path: str, method: MethodDescriptor, implementation: object) -> Method:
        function = getattr(implementation, method.name, None)
        if function is None:
            raise InvalidArgument(f"{type(implementation).__name__} has no method {method.name} ({path})")
        requests = _requests(method)
        encode = _encoder(method)
        answer = self._many(function, requests, encode) if method.server_streaming else _one(function, requests, encode)
        streams = method.client_streaming or method.server_streaming
        at_once = None if streams or iscoroutinefunction(function) else _at_once(path, function, requests, encode)
        return Method(method.client_streaming, _in_a_task(path, answer), at_once)

    def _many(self, function: Callable[[Any, Any], Any], requests: Requests, encode: Callable[[Any], bytes]) -> Answer:
        async def answer(stream: Stream, call: ServerCall) -> None:
            if self._stopping:
                raise Unavailable("the daemon is stopping")
            self._waiting.add(stream)
            try:
                async with aclosing(function(requests(stream), call)) as responses:
                    async for response in responses:
                        self._waiting.discard(stream)
                        await stream.send(encode(response))
                        if self._stopping:
                            raise Unavailable("the daemon is stopping")
                        self._waiting.add(stream)
            finally:
                self._waiting.discard(stream)
            stream.finish(Code.OK)

        return answer


Requests = Callable[[Stream], Any]
"""From a call to its request, or to an iterator of its requests."""
Answer = Callable[[Stream, ServerCall], Awaitable[None]]


def _one(function: Callable[[Any, Any], Any], requests: Requests, encode: Callable[[Any], bytes]) -> Answer:
    async def answer(stream: Stream, call: ServerCall) -> None:
        response = function(requests(stream), call)
        await stream.respond(encode(await response if isawaitable(response) else response))

    return answer


class _Answered:
    """A call on its way to its end, which is told in the log; an error becomes its status."""

    __slots__ = ("_path", "_started", "_stream", "call")

    def __init__(self, path: str, stream: Stream) -> None:
        self._path = path
        self._stream = stream
        self._started = time.monotonic()
        self.call = ServerCall(stream)

    def succeed(self) -> None:
        trace_call(self._path, self._started, None, self.call)

    def fail(self, error: Exception) -> None:
        failure = as_moorage_error(self._path, error)
        self._stream.finish(failure.code, failure.message)
        trace_call(self._path, self._started, failure, self.call)

    def cancelled(self) -> None:
        """Whoever cancels a call ends its stream before; what a handler cancels by itself has to be told."""
        self.fail(Cancelled("the call was cancelled"))


class _Taskless(_Answered):
    """One that is answered without a task."""

    __slots__ = ("_delivered", "_encode")

    def __init__(self, path: str, stream: Stream, encode: Callable[[Any], bytes]) -> None:
        super().__init__(path, stream)
        self._encode = encode
        self._delivered = False

    def answer(self, response: Any) -> None:
        self._stream.respond_soon(self._encode(response))
        self.succeed()

    def wait(self, pending: asyncio.Future[Any]) -> None:
        """Answer with what `pending` comes to: in the thread that makes it, if one does and the answer can go out at once,
        which is a thread's waking earlier."""
        if isinstance(pending, ThreadFuture) and self._stream.reserve():
            pending.deliver = self._deliver
        pending.add_done_callback(self._end)

    def _deliver(self, response: Any) -> Callable[[], None] | None:
        return self._conclude if self._stream.respond_from_thread(self._encode(response)) else None

    def _conclude(self) -> None:
        self._delivered = True
        self._stream.conclude()

    def _end(self, pending: asyncio.Future[Any]) -> None:
        try:
            response = pending.result()
            if self._delivered:
                self.succeed()
            else:
                self.answer(response)
        except asyncio.CancelledError:
            self.cancelled()
        except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
            self.fail(error)


def _at_once(
    path: str, function: Callable[[Any, Any], Any], requests: Requests, encode: Callable[[Any], bytes]
) -> Callable[[Stream], asyncio.Future[Any] | None]:
    """What answers a call in the turn of the loop in which it came, or as soon as what the function returned has its result:
    a task would take a quarter of the time of a small call."""

    def answer(stream: Stream) -> asyncio.Future[Any] | None:
        taskless = _Taskless(path, stream, encode)
        try:
            response = function(requests(stream), taskless.call)
            if isawaitable(response):
                pending = asyncio.ensure_future(response)
                taskless.wait(pending)
                return pending
            taskless.answer(response)
        except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
            taskless.fail(error)
        return None

    return answer


def _in_a_task(path: str, answer: Answer) -> Callable[[Stream], Coroutine[Any, Any, None]]:
    """What runs a call to its end in a task."""

    async def run(stream: Stream) -> None:
        answered = _Answered(path, stream)
        try:
            await answer(stream, answered.call)
        except asyncio.CancelledError:
            answered.cancelled()
            raise
        except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
            answered.fail(error)
        else:
            answered.succeed()

    return run


def services_of(instance: object) -> Sequence[Service]:
    """The services that the instance of a GRPC plugin stands for; `InvalidArgument` where it is no such thing."""
    members = [instance] if isinstance(instance, Service) else instance
    if not isinstance(members, Sequence) or not all(isinstance(member, Service) for member in members):
        raise InvalidArgument(f"expected a Service or a sequence of them, got {type(instance).__name__}")
    return members


def _requests(method: MethodDescriptor) -> Requests:
    """What makes a request of the bytes that came. What is no message is `Internal`, as from containerd."""
    kind = GetMessageClass(method.input_type)

    def decode(data: Message) -> Any:
        try:
            return kind.FromString(data)  # type: ignore[arg-type] # takes a bytearray, too, and copies none
        except DecodeError as error:
            raise Internal(f"the request is no {method.input_type.full_name}: {error}") from None

    if method.client_streaming:
        return lambda stream: Messages(stream, decode)
    return lambda stream: decode(stream.message)


class Messages:
    """The requests of a client that streams. No generator: a handler may leave one before its end, and nothing is to be
    closed then."""

    __slots__ = ("_decode", "_stream")

    def __init__(self, stream: Stream, decode: Callable[[Message], Any]) -> None:
        self._stream = stream
        self._decode = decode

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        data = await self._stream.receive()
        if data is None:
            raise StopAsyncIteration
        return self._decode(data)


def _encoder(method: MethodDescriptor) -> Callable[[Any], bytes]:
    """What makes bytes of a response."""
    serialize = GetMessageClass(method.output_type).SerializeToString

    def encode(response: Any) -> bytes:
        return response.data if isinstance(response, Encoded) else serialize(response)

    return encode
