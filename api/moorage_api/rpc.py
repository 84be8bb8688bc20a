"""Services on the daemon's socket, without a word of gRPC.

A plugin of `PluginType.GRPC` has an instance that is a `Service` or a sequence of them. The implementation has an
`async` method a RPC, named as the RPC:

- unary request, unary response: `async def Get(self, request, call) -> response`
- streamed response: `async def List(self, request, call)` as an async generator
- streamed request: `request` is an async iterator

A method with a unary request and response need not be `async`: one that is not returns the response, or what is to be awaited
for it. It is called in the turn of the loop in which the request came, and must not wait.

A response is a message of the method's type, or `Encoded`: one that is serialised already.

Errors of `moorage_api.errors` become status codes in one place; anything else is logged and becomes `Internal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.descriptor import ServiceDescriptor

NAMESPACE_HEADER = "containerd-namespace"
LEASE_HEADER = "containerd-lease"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response as it goes over the wire, from who keeps its parts serialised because it is asked for often."""

    data: bytes


class Call(Protocol):
    """The circumstances of one RPC."""

    @property
    def namespace(self) -> str:
        """The caller's namespace, checked. `FailedPrecondition` where the caller gave none."""

    @property
    def lease(self) -> str:
        """The lease that the caller works under, or empty."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The request's text headers."""

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, or None."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its methods as the descriptor has them, and who answers. `name` differs from the descriptor's full
    name where an older version is the same on the wire. With an `address`, the path of a Unix socket, it is served there
    instead of on the daemon's socket."""

    descriptor: ServiceDescriptor
    implementation: object
    name: str = ""
    address: str = ""
