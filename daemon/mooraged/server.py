"""The gRPC server on the daemon's Unix socket.

Services are added as `moorage_api.rpc.Service`: the methods come from the descriptor, the answers from the
implementation. Errors become status codes here and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from moorage_api.errors import FailedPrecondition, Internal, InvalidArgument, MoorageError, Unavailable
from moorage_api.remote.status import fail
from moorage_api.rpc import LEASE_HEADER, NAMESPACE_HEADER, Encoded, Service
from moorage_api.types import check_identifier
from mooraged.logs import trace_call

# Calls that wait to be taken up, as after a burst of thousands: gRPC refuses some beyond 1000 unless told otherwise.
_PENDING_MAX = 65_536


class ServerCall:
    """`moorage_api.rpc.Call` over a gRPC context."""

    __slots__ = ("__dict__", "_context")

    def __init__(self, context: Any) -> None:
        self._context = context

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The first value of each header: containerd's clients put the one that holds now before those that held."""
        pairs = list(self._context.invocation_metadata() or ())
        return {key: value for key, value in reversed(pairs) if isinstance(value, str)}

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
        remaining: float | None = self._context.time_remaining()
        return remaining


class Server:
    """Serves services on one Unix socket. `add` comes before `start`."""

    def __init__(self, *, max_recv: int, max_send: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_recv),
                ("grpc.max_send_message_length", max_send),
                ("grpc.so_reuseport", 0),
                ("grpc.server.max_pending_requests", _PENDING_MAX),
                ("grpc.server.max_pending_requests_hard_limit", _PENDING_MAX),
            ]
        )
        self._names: set[str] = set()
        # Streams whose next response is not there yet, and which may be cancelled: not those that are being sent to,
        # since a call that is cancelled within gRPC never gets its status.
        self._waiting: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def add(self, service: Service) -> None:
        """Serve `service`. `InvalidArgument` where a method has no implementation, or the name is taken."""
        name = service.name or service.descriptor.full_name
        if name in self._names:
            raise InvalidArgument(f"service {name} is served already")
        handlers = {
            method.name: self._handler(f"/{name}/{method.name}", method, service.implementation)
            for method in service.descriptor.methods
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._names.add(name)

    def _handler(self, path: str, method: MethodDescriptor, implementation: object) -> grpc.RpcMethodHandler[Any, Any]:
        function = getattr(implementation, method.name, None)
        if function is None:
            raise InvalidArgument(f"{type(implementation).__name__} has no method {method.name} ({path})")
        decode = _decoder(method)
        encode = _encoder(method)
        if method.server_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if method.client_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(self._stream(path, function, decode), None, encode)
        make = grpc.stream_unary_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        return make(_unary(path, function, decode), None, encode)

    def _stream(
        self, path: str, function: Callable[[Any, Any], AsyncIterator[Any]], decode: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        # A coroutine that writes, not a generator: gRPC forgets a generator whose client has gone, so that what it holds
        # would stay until the garbage collector comes by.
        async def handle(request: Any, context: Any) -> None:
            started = time.monotonic()
            failure: MoorageError | None = None
            task = asyncio.current_task()
            assert task is not None
            self._waiting.add(task)
            call = ServerCall(context)
            try:
                async with aclosing(function(decode(request), call)) as responses:  # type: ignore[type-var]
                    async for response in responses:
                        self._waiting.discard(task)
                        await context.write(response)
                        if self._stopping:
                            raise Unavailable("the daemon is stopping")
                        self._waiting.add(task)
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                # Cancelled by `stop`: without a status of its own, the call would stay open.
                failure = fail(path, context, Unavailable("the daemon is stopping"))
            except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
                failure = fail(path, context, error)
            finally:
                self._waiting.discard(task)
                trace_call(path, started, failure, call)

        return handle

    async def start(self, address: str, *, uid: int = 0, gid: int = 0) -> None:
        """Bind the socket (mode 0600, or 0660 with a group) and serve. The caller holds the address's lock."""
        os.makedirs(os.path.dirname(address), mode=0o700, exist_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{address}")
        except RuntimeError as error:
            raise FailedPrecondition(f"cannot listen on {address}: {error}") from error
        # Nobody is served before this: the server has not started.
        os.chown(address, uid, gid)
        os.chmod(address, 0o660 if gid else 0o600)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls, end the streams now, and give the other calls `grace` seconds."""
        self._stopping = True
        stopping = asyncio.ensure_future(self._server.stop(grace))
        for task in list(self._waiting):
            task.cancel()
        await stopping


def services_of(instance: object) -> Sequence[Service]:
    """The services that the instance of a GRPC plugin stands for; `InvalidArgument` where it is no such thing."""
    members = [instance] if isinstance(instance, Service) else instance
    if not isinstance(members, Sequence) or not all(isinstance(member, Service) for member in members):
        raise InvalidArgument(f"expected a Service or a sequence of them, got {type(instance).__name__}")
    return members


def _decoder(method: MethodDescriptor) -> Callable[[Any], Any]:
    """What makes a request of the bytes that came, or an iterator of requests of an iterator of bytes. gRPC would answer
    `Unknown` to what is no message; here it is `Internal`, as from containerd."""
    kind = GetMessageClass(method.input_type)

    def decode(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise Internal(f"the request is no {method.input_type.full_name}: {error}") from None

    async def decode_each(messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in messages:
            yield decode(data)

    return decode_each if method.client_streaming else decode


def _encoder(method: MethodDescriptor) -> Callable[[Any], bytes]:
    """What makes bytes of a response."""
    serialize = GetMessageClass(method.output_type).SerializeToString

    def encode(response: Any) -> bytes:
        return response.data if isinstance(response, Encoded) else serialize(response)

    return encode


def _unary(
    path: str, function: Callable[[Any, Any], Awaitable[Any]], decode: Callable[[Any], Any]
) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Any) -> Any:
        started = time.monotonic()
        failure: MoorageError | None = None
        call = ServerCall(context)
        try:
            return await function(decode(request), call)
        except Exception as error:  # noqa: BLE001 - every error ends here and becomes a status
            failure = fail(path, context, error)
        finally:
            trace_call(path, started, failure, call)

    return handle
