"""The namespaces of a daemon (`containerd.services.namespaces.v1`)."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.session import Session
from moorage_api.wire import namespaces_pb2 as wire
from moorage_api.wire.namespaces_pb2_grpc import NamespacesStub


class Namespaces:
    """One world of clients each."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stub = NamespacesStub(session.channel)

    async def list(self) -> dict[str, dict[str, str]]:
        """All of them, each with its labels."""
        response = await self._session.call(self._stub.List, wire.ListNamespacesRequest())
        return {namespace.name: dict(namespace.labels) for namespace in response.namespaces}

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """`AlreadyExists`, `InvalidArgument` for a malformed name."""
        namespace = wire.Namespace(name=name, labels=dict(labels or {}))
        await self._session.call(self._stub.Create, wire.CreateNamespaceRequest(namespace=namespace))

    async def delete(self, name: str) -> None:
        """`NotFound`, `FailedPrecondition` while anything is in it."""
        await self._session.call(self._stub.Delete, wire.DeleteNamespaceRequest(name=name))
