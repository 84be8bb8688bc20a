"""`containerd.services.namespaces.v1`."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from moorage_api.core import Core
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.rpc import Call, Service
from moorage_api.types import check_identifier
from moorage_api.wire import namespaces_pb2 as pb


class Namespaces:
    """The handlers. They belong to no namespace: every client may list what there is."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Get(self, request: pb.GetNamespaceRequest, call: Call) -> pb.GetNamespaceResponse:
        """One that is not there yet has no labels, and that is no error: clients (dockerd among them) look for their
        defaults in the labels of a namespace before they put anything into it."""
        try:
            labels = await self._core.run(self._core.namespaces.labels, request.name)
        except NotFound:
            labels = {}
        return pb.GetNamespaceResponse(namespace=pb.Namespace(name=request.name, labels=labels))

    async def List(self, request: pb.ListNamespacesRequest, call: Call) -> pb.ListNamespacesResponse:
        store = self._core.namespaces
        names = await self._core.run(store.list)
        return pb.ListNamespacesResponse(
            namespaces=[pb.Namespace(name=name, labels=await self._core.run(store.labels, name)) for name in names]
        )

    async def Create(self, request: pb.CreateNamespaceRequest, call: Call) -> pb.CreateNamespaceResponse:
        given = request.namespace
        check_identifier(given.name, "namespace")
        await self._core.run(self._core.namespaces.create, given.name, dict(given.labels))
        return pb.CreateNamespaceResponse(namespace=given)

    async def Update(self, request: pb.UpdateNamespaceRequest, call: Call) -> pb.UpdateNamespaceResponse:
        given, paths = request.namespace, request.update_mask.paths
        wanted = dict(given.labels)
        if paths:
            wanted = {key: given.labels.get(key, "") for key in map(_label_key, paths)}
        labels = await self._core.run(self._core.namespaces.set_labels, given.name, wanted, replace=not paths)
        return pb.UpdateNamespaceResponse(namespace=pb.Namespace(name=given.name, labels=labels))

    async def Delete(self, request: pb.DeleteNamespaceRequest, call: Call) -> Empty:
        await self._core.run(self._core.namespaces.delete, request.name)
        return Empty()


def _label_key(path: str) -> str:
    """The key in a mask's path; containerd takes nothing but single labels here."""
    field, _, key = path.partition(".")
    if field != "labels" or not key:
        raise InvalidArgument(f"cannot update field {path!r} of a namespace: expected labels.KEY")
    return key


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Namespaces"], Namespaces(core))
