"""How an RPC becomes a typed method of a client: declared once, called from the synchronous and the asynchronous one."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Generic, TypeVar, overload

import grpc
from google.protobuf.message import Message

from moorage.cri.calls import AsyncStreamCall, AsyncUnaryCall, StreamCall, UnaryCall
from moorage.session import MESSAGE_MAX

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

DEADLINE = 60.0
"""Seconds that a call may take unless it says otherwise."""

ADDRESS = "/run/moorage/moorage.sock"
_VARIABLE = "CONTAINER_RUNTIME_ENDPOINT"

OPTIONS = (
    # As much as a kubelet takes and sends.
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    # A runtime that is restarted is found again at once, not after the usual minutes of back-off.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def target(address: str) -> str:
    """What gRPC dials for a socket's path or `unix://` URL; without one for what CONTAINER_RUNTIME_ENDPOINT says."""
    return f"unix:{(address or os.environ.get(_VARIABLE) or ADDRESS).removeprefix('unix://')}"


class Sync:
    """A blocking connection, which RPCs are called on."""

    _channel: grpc.Channel
    _version: str
    _seconds: float
    _stubs: dict[str, Any]


class Async:
    """A connection of an event loop, which RPCs are awaited on."""

    _channel: grpc.aio.Channel
    _version: str
    _seconds: float
    _stubs: dict[str, Any]


class Rpc(Generic[Q, R]):
    """Declares an RPC, in a class whose `SERVICE` names its service; the attribute's name is the RPC's."""

    def __init__(self, request: type[Q], response: type[R]) -> None:
        self.request, self.response = request, response
        self.service = self.name = ""

    def __set_name__(self, owner: type[Service], name: str) -> None:
        self.service, self.name = owner.SERVICE, name

    def stub(self, client: Sync | Async, make: Any) -> Any:
        """What calls it on a client's connection, made by `make` the first time."""
        if self.name not in client._stubs:
            client._stubs[self.name] = make(
                f"/runtime.{client._version}.{self.service}/{self.name}",
                request_serializer=self.request.SerializeToString,
                response_deserializer=self.response.FromString,
            )
        return client._stubs[self.name]


class Unary(Rpc[Q, R]):
    """Declares an RPC with one answer."""

    @overload
    def __get__(self, client: None, owner: object) -> Unary[Q, R]: ...
    @overload
    def __get__(self, client: Sync, owner: object) -> UnaryCall[Q, R]: ...
    @overload
    def __get__(self, client: Async, owner: object) -> AsyncUnaryCall[Q, R]: ...
    def __get__(
        self, client: Sync | Async | None, owner: object
    ) -> Unary[Q, R] | UnaryCall[Q, R] | AsyncUnaryCall[Q, R]:
        if client is None:
            return self
        stub = self.stub(client, client._channel.unary_unary)
        if isinstance(client, Sync):
            return UnaryCall(stub, self.request, client._seconds)
        return AsyncUnaryCall(stub, self.request, client._seconds)


class Streaming(Rpc[Q, R]):
    """Declares an RPC with many answers."""

    @overload
    def __get__(self, client: None, owner: object) -> Streaming[Q, R]: ...
    @overload
    def __get__(self, client: Sync, owner: object) -> StreamCall[Q, R]: ...
    @overload
    def __get__(self, client: Async, owner: object) -> AsyncStreamCall[Q, R]: ...
    def __get__(
        self, client: Sync | Async | None, owner: object
    ) -> Streaming[Q, R] | StreamCall[Q, R] | AsyncStreamCall[Q, R]:
        if client is None:
            return self
        stub = self.stub(client, client._channel.unary_stream)
        if isinstance(client, Sync):
            return StreamCall(stub, self.request)
        return AsyncStreamCall(stub, self.request)


class Service:
    """The declarations of one gRPC service."""

    SERVICE: ClassVar[str]
