"""A connection to a backend in another process: calls that block, never for ever."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from moorage_api.remote.status import from_rpc_error
from moorage_api.rpc import LEASE_HEADER, NAMESPACE_HEADER

MESSAGE_MAX = 16 << 20
"""The largest message in bytes, either way: containerd's own limit."""
_CONNECT_MS = 2000
_FIRST_RETRY_MS, _LAST_RETRY_MS = 50, 400


class Channel:
    """Calls on the Unix socket `address`, as `name` in messages. Nothing is dialled before the first call.

    While nobody listens, calls fail with `Unavailable` at once; gRPC looks again several times a second. A peer that
    accepts and does not answer costs a call `timeout` seconds: `DeadlineExceeded`. `namespace` is what containerd's
    services want to be told; backends do not care.
    """

    def __init__(self, name: str, address: str, *, timeout: float = 120.0, namespace: str = "default") -> None:
        path = address.removeprefix("unix://")
        self.peer = f"plugin {name} at {path}"
        self.timeout = timeout
        self._headers: tuple[tuple[str, str], ...] = ((NAMESPACE_HEADER, namespace),)
        self.grpc = grpc.insecure_channel(
            f"unix:{path}",
            options=[
                ("grpc.max_receive_message_length", MESSAGE_MAX),
                ("grpc.max_send_message_length", MESSAGE_MAX),
                # A pool of connections shared with others would share their back-off.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", _FIRST_RETRY_MS),
                ("grpc.max_reconnect_backoff_ms", _LAST_RETRY_MS),
                # In spite of its name: how long one attempt to connect may take.
                ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
            ],
        )

    def bound(self, namespace: str, lease: str = "") -> Channel:
        """The same connection for another namespace, or under a lease."""
        other = copy.copy(self)
        other._headers = ((NAMESPACE_HEADER, namespace), *(((LEASE_HEADER, lease),) if lease else ()))
        return other

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """Call a unary method. Raises what `moorage_api.errors` has for the status."""
        try:
            return method(request, timeout=self.timeout, metadata=self._headers)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.peer) from None

    def stream(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """The responses of a streaming method; `request` is an iterator of requests where it takes those."""
        call = method(request, timeout=self.timeout, metadata=self._headers)
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.peer) from None
        finally:
            call.cancel()

    def session(self, method: Callable[..., Any], requests: Iterator[Any]) -> Any:
        """A call with messages both ways and no deadline: its maker sees to it that no step waits for ever."""
        return method(requests, metadata=self._headers)

    def close(self) -> None:
        """End all calls. Twice is harmless."""
        self.grpc.close()
