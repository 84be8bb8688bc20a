"""Who the daemon is, and what its plugins are."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from moorage_api.errors import FailedPrecondition
from moorage_api.rpc import Service
from moorage_api.wire import introspection_pb2 as pb
from mooraged.graph import Graph
from mooraged.services.introspection import load_uuid

from .conftest import Client, failure


def test_the_version(nobody: Client) -> None:
    assert nobody.version.Version(Empty()).version == "0.0.test"


def test_the_server(nobody: Client) -> None:
    answer = nobody.introspection.Server(Empty())
    assert str(uuid.UUID(answer.uuid)) == answer.uuid
    assert answer.pid == os.getpid()
    assert answer.pidns == os.stat("/proc/self/ns/pid").st_ino
    assert nobody.introspection.Server(Empty()) == answer


def test_plugins_and_filters(nobody: Client) -> None:
    stub = nobody.introspection
    everything = stub.Plugins(pb.PluginsRequest()).plugins
    ids = {(plugin.type, plugin.id) for plugin in everything}
    assert ("io.containerd.grpc.v1", "content") in ids
    [logs] = stub.Plugins(pb.PluginsRequest(filters=["type==io.containerd.internal.v1,id==logs"])).plugins
    assert Path(logs.exports["root"]).is_dir()
    assert logs.exports["root"].endswith("/io.containerd.internal.v1.logs")
    both = stub.Plugins(pb.PluginsRequest(filters=["id==images", "id==leases"])).plugins
    assert {plugin.id for plugin in both} == {"images", "leases"}
    assert "io.containerd.internal.v1.core" in both[0].requires
    assert failure(lambda: stub.Plugins(pb.PluginsRequest(filters=["id=="])))[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_plugin_that_failed_shows_its_reason(nobody: Client, stores: tuple[Graph, Sequence[Service]]) -> None:
    plugin = stores[0].find("io.containerd.grpc.v1", "version")
    assert plugin is not None
    plugin.error = FailedPrecondition("no such luck")
    try:
        shown = nobody.introspection.PluginInfo(pb.PluginInfoRequest(type=plugin.type, id=plugin.id)).plugin
    finally:
        plugin.error = None
    assert (shown.init_err.code, shown.init_err.message) == (9, "no such luck")


def test_one_plugin(nobody: Client) -> None:
    stub = nobody.introspection
    request = pb.PluginInfoRequest(type="io.containerd.event.v1", id="exchange")
    answer = stub.PluginInfo(request)
    assert (answer.plugin.id, answer.plugin.HasField("init_err")) == ("exchange", False)
    request.options.CopyFrom(Any(type_url="x"))
    assert failure(lambda: stub.PluginInfo(request))[0] is grpc.StatusCode.UNIMPLEMENTED
    absent = pb.PluginInfoRequest(type="io.containerd.event.v1", id="absent")
    assert failure(lambda: stub.PluginInfo(absent))[0] is grpc.StatusCode.NOT_FOUND


def test_the_uuid_is_made_once(tmp_path: Path) -> None:
    first = load_uuid(tmp_path)
    assert load_uuid(tmp_path) == first
    (tmp_path / "uuid").write_text("")
    with pytest.raises(FailedPrecondition, match="holds no UUID"):
        load_uuid(tmp_path)
