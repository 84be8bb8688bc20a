"""One connection to a daemon, seen from one namespace: headers, deadlines and errors, in one place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message

from moorage_api.errors import DeadlineExceeded, InvalidArgument, MoorageError, Unavailable, from_code
from moorage_api.rpc import LEASE_HEADER, NAMESPACE_HEADER

if TYPE_CHECKING:
    from grpc import aio

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
T = TypeVar("T")

DEADLINE = 60.0
"""Seconds that a unary call may take unless it says otherwise."""
# Of a socket's address (unix(7)), with its final zero.
_PATH_MAX = 107
GONE = "the daemon closed the connection"
"""The message where a call ends before its answer."""
# What gRPC says then, under codes that differ from time to time.
_CLOSED = ("Stream removed", "Socket closed", "recvmsg:", "Connection reset")
MESSAGE_MAX = 16 << 20
"""The largest message in bytes, either way: containerd's own limit."""


def open_channel(address: str) -> aio.Channel:
    """A channel to the Unix socket `address` (a path, or a `unix://` URL). Nothing is dialled before the first call.
    `InvalidArgument` for a path that no socket can have."""
    path = address.removeprefix("unix://")
    if len(os.fsencode(path)) > _PATH_MAX:
        raise InvalidArgument(f"the address {path[:40]!r}… is too long for a socket: at most {_PATH_MAX} bytes")
    return grpc.aio.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.max_receive_message_length", MESSAGE_MAX),
            ("grpc.max_send_message_length", MESSAGE_MAX),
            # A daemon that is restarted is found again at once, not after the usual minutes of back-off.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # A new channel dials at once, whatever befell others to the same daemon.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def translate(error: grpc.RpcError) -> MoorageError:
    """The error of `moorage_api.errors` that a failed call stands for."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return MoorageError(str(error))
    details = error.details() or error.code().name.lower().replace("_", " ")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the daemon did not answer in time ({details})")
    if details.startswith(_CLOSED):
        return Unavailable(GONE)
    return from_code(error.code().value[0], details)


async def to_its_end(call: Coroutine[Any, Any, T]) -> T:
    """Wait for a call even when cancelled, which is then raised: what is half under way could not be taken back."""
    task = asyncio.create_task(call, name="moorage call")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@dataclass(frozen=True)
class Session:
    """A channel bound to a namespace and, perhaps, a lease. Cheap to derive; the channel is shared."""

    channel: aio.Channel
    address: str
    namespace: str
    lease: str = ""

    def bound(self, *, namespace: str = "", lease: str = "") -> Session:
        """The same connection in another namespace, or under a lease."""
        return replace(self, namespace=namespace or self.namespace, lease=lease)

    @property
    def metadata(self) -> aio.Metadata:
        """The headers of every call."""
        headers = [(NAMESPACE_HEADER, self.namespace)]
        if self.lease:
            headers.append((LEASE_HEADER, self.lease))
        return grpc.aio.Metadata(*headers)

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = DEADLINE,
    ) -> Response:
        """Call a unary method. Raises what `moorage_api.errors` has for the status; `DeadlineExceeded` after `timeout`
        seconds (None: never)."""
        try:
            return await method(request, metadata=self.metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise translate(error) from None

    async def stream(
        self,
        method: aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Response]:
        """The responses of a server stream, asked for with further `headers`; closing the iterator cancels the call. Errors
        as `call`."""
        metadata = grpc.aio.Metadata(*self.metadata, *(headers or {}).items())
        call = method(request, metadata=metadata, timeout=timeout)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise translate(error) from None
        finally:
            call.cancel()
