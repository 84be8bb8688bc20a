"""`containerd.services.introspection.v1`: the plugins, and who this daemon is."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from google.rpc.status_pb2 import Status

from moorage_api.convert import platform_to_wire
from moorage_api.errors import FailedPrecondition, NotFound, Unimplemented
from moorage_api.filters import Adaptor, parse
from moorage_api.plugin import Describable
from moorage_api.rpc import Call, Service
from moorage_api.types import TypedValue
from moorage_api.wire import introspection_pb2 as pb
from mooraged.graph import Graph, Plugin, State


class Introspection:
    """The handlers. The plugins are those of the graph as it is now."""

    def __init__(self, graph: Graph, uuid: str) -> None:
        self._graph = graph
        self._uuid = uuid

    async def Plugins(self, request: pb.PluginsRequest, call: Call) -> pb.PluginsResponse:
        wanted = parse(list(request.filters))
        return pb.PluginsResponse(
            plugins=[_to_wire(plugin) for plugin in self._shown() if wanted.matches(_adaptor(plugin))]
        )

    async def Server(self, request: Empty, call: Call) -> pb.ServerResponse:
        return pb.ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino)

    async def PluginInfo(self, request: pb.PluginInfoRequest, call: Call) -> pb.PluginInfoResponse:
        plugin = self._graph.find(request.type, request.id)
        if plugin is None or plugin.state is State.DISABLED:
            raise NotFound(f"no plugin {request.type}.{request.id}")
        answer = pb.PluginInfoResponse(plugin=_to_wire(plugin))
        if request.HasField("options"):
            if plugin.state is not State.STARTED:
                raise FailedPrecondition(f"plugin {plugin.uri} has not started: {plugin.error}")
            if not isinstance(plugin.instance, Describable):
                raise Unimplemented(f"plugin {plugin.uri} tells no more of itself")
            extra = await plugin.instance.plugin_info(TypedValue(request.options.type_url, request.options.value))
            if extra is not None:
                answer.extra.type_url, answer.extra.value = extra.type_url, extra.value
        return answer

    def _shown(self) -> Sequence[Plugin]:
        """All but those that the configuration disables, as in containerd."""
        return [plugin for plugin in self._graph.plugins if plugin.state is not State.DISABLED]


def _to_wire(plugin: Plugin) -> pb.Plugin:
    error = None
    if plugin.error is not None:
        error = Status(code=plugin.error.code.value, message=plugin.error.message)
    return pb.Plugin(
        type=plugin.type,
        id=plugin.id,
        requires=plugin.requires,
        platforms=map(platform_to_wire, plugin.platforms),
        exports=plugin.exports,
        capabilities=plugin.capabilities,
        init_err=error,
    )


def _adaptor(plugin: Plugin) -> Adaptor:
    """Fields: type, id."""
    return lambda path: {"type": plugin.type, "id": plugin.id}.get(".".join(path))


def load_uuid(folder: Path) -> str:
    """This daemon's UUID, made at the first start; written whole or not at all. `FailedPrecondition` for a spoilt one."""
    path = folder / "uuid"
    if not path.exists():
        draft = folder / "uuid.new"
        draft.write_text(str(uuid.uuid4()))
        draft.replace(path)
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except ValueError as error:
        raise FailedPrecondition(f"{path} holds no UUID: {error}") from error


def service(graph: Graph, uuid: str) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Introspection"], Introspection(graph, uuid))
