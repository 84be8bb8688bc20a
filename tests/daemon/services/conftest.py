"""Clients of the services, which are served in this process over the real metadata and backends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

from moorage_api.rpc import Service
from moorage_api.wire import (
    containers_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    introspection_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    namespaces_pb2_grpc,
    snapshots_pb2_grpc,
    version_pb2_grpc,
)
from mooraged.graph import Graph

Failure = tuple[grpc.StatusCode, str]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Client:
    """A client in one namespace: every stub sends its headers and a deadline."""

    def __init__(self, channel: grpc.Channel, namespace: str = "", lease: str = "") -> None:
        self.namespace = namespace
        headers = [("containerd-namespace", namespace)] if namespace else []
        headers += [("containerd-lease", lease)] if lease else []
        self._headers = tuple(headers)
        self._channel = channel
        bound = grpc.intercept_channel(channel, _Headers(self._headers))
        self.containers = containers_pb2_grpc.ContainersStub(bound)
        self.content = content_pb2_grpc.ContentStub(bound)
        self.diff = diff_pb2_grpc.DiffStub(bound)
        self.events = events_pb2_grpc.EventsStub(bound)
        self.images = images_pb2_grpc.ImagesStub(bound)
        self.introspection = introspection_pb2_grpc.IntrospectionStub(bound)
        self.leases = leases_pb2_grpc.LeasesStub(bound)
        self.namespaces = namespaces_pb2_grpc.NamespacesStub(bound)
        self.snapshots = snapshots_pb2_grpc.SnapshotsStub(bound)
        self.version = version_pb2_grpc.VersionStub(bound)

    def under(self, lease: str) -> Client:
        """The same client under a lease."""
        return Client(self._channel, self.namespace, lease)

    def write(self, *requests: content_pb2.WriteContentRequest) -> list[content_pb2.WriteContentResponse]:
        return list(self.content.Write(iter(requests)))

    def put(self, data: bytes, ref: str = "", labels: dict[str, str] | None = None) -> str:
        """Make a blob; returns its digest."""
        digest = digest_of(data)
        self.write(
            content_pb2.WriteContentRequest(action=content_pb2.STAT, ref=ref or digest, total=len(data)),
            content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT, data=data, total=len(data), expected=digest, labels=labels or {}
            ),
        )
        return digest

    def read(self, digest: str, offset: int = 0, size: int = 0) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        return b"".join(response.data for response in self.content.Read(request))


class _Headers(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds headers, and a deadline where the call has none."""

    def __init__(self, headers: Sequence[tuple[str, str]]) -> None:
        self._headers = tuple(headers)

    def _call(self, continuation: Any, details: Any, request: Any) -> Any:
        timeout = 20 if details.timeout is None else details.timeout
        return continuation(
            details._replace(metadata=(*(details.metadata or ()), *self._headers), timeout=timeout), request
        )

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _call


def failure(call: Callable[[], Any]) -> Failure:
    """The status with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def channel(stores: tuple[Graph, Sequence[Service]], serve: Any) -> grpc.Channel:
    """A connection to all services but those that run containers."""
    connection: grpc.Channel = serve(stores[1]).channel()
    return connection


_counter = iter(range(1, 1_000_000))


@pytest.fixture
def client(channel: grpc.Channel) -> Client:
    """A client in a namespace that no other test uses."""
    return Client(channel, f"test-{next(_counter)}")


@pytest.fixture
def other(channel: grpc.Channel) -> Client:
    """Another one."""
    return Client(channel, f"test-{next(_counter)}")


@pytest.fixture
def nobody(channel: grpc.Channel) -> Client:
    """A client that names no namespace."""
    return Client(channel)


@pytest.fixture
def leased(client: Client) -> Client:
    """A client under a lease, so that nothing of what it makes is garbage."""
    client.leases.Create(leases_pb2.CreateRequest(id="test"))
    return client.under("test")
