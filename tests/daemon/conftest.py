"""Fixtures of the daemon's tests: the plugin graph, the gRPC server and the stores, in this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from moorage_api.core import Daemon
from moorage_api.discovery import discover
from moorage_api.plugin import PluginType, Registration
from moorage_api.rpc import Service
from mooraged.graph import Graph, State
from mooraged.metadata import View
from mooraged.server import Server, services_of
from support.ctr import Ctr
from support.daemon import Daemon as RunningDaemon
from support.storage import Storage

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, for synchronous tests."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test loop")
        self._thread.start()

    def run(self, awaitable: Callable[[], Awaitable[T]], timeout: float = 30) -> T:
        """Await `awaitable()` on the loop and return its result."""

        async def call() -> T:
            return await awaitable()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(timeout)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


class Served:
    """A server on a socket, and clients of it."""

    def __init__(self, loop_thread: LoopThread, address: str, services: Sequence[Service], **limits: int) -> None:
        self._loop_thread = loop_thread
        self.address = address
        self._channels: list[grpc.Channel] = []

        async def start() -> Server:
            server = Server(max_recv=limits.get("max_recv", 16 << 20), max_send=limits.get("max_send", 16 << 20))
            for service in services:
                server.add(service)
            await server.start(address)
            return server

        self.server = loop_thread.run(start)

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
        channel = grpc.insecure_channel(f"unix:{self.address}", options=options)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._loop_thread.run(lambda: self.server.stop(1.0))


@pytest.fixture(scope="module")
def serve(
    loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Sequence[Service]], Served]]:
    """Serve services on a socket; stopped at the module's end."""
    folder = tmp_path_factory.mktemp("s")
    running: list[Served] = []

    def start(services: Sequence[Service], **limits: int) -> Served:
        running.append(Served(loop_thread, str(folder / f"{len(running)}.sock"), services, **limits))
        return running[-1]

    yield start
    for served in running:
        served.close()


WITHOUT = ("io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.tasks", "io.containerd.grpc.v1.sandboxes")


@pytest.fixture(scope="module")
def stores(
    loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Graph, Sequence[Service]]]:
    """The graph of all that stores and of its services, without what runs containers."""
    graph = build(tmp_path_factory.mktemp("d"))

    async def start() -> None:
        await graph.start()
        await graph.ready()

    loop_thread.run(start)
    services = [
        service
        for plugin in graph.plugins
        if plugin.type == PluginType.GRPC and plugin.state is State.STARTED
        for service in services_of(plugin.instance)
    ]
    yield graph, services
    loop_thread.run(lambda: graph.stop(10))


def build(folder: Path) -> Graph:
    """The graph on private folders, not started."""
    found = discover()
    wanted = [
        r
        for r in found.registrations
        if r.type not in (PluginType.RUNTIME, PluginType.SHIM, PluginType.TTRPC, PluginType.NRI)
        and r.uri not in WITHOUT
    ]
    itself = Registration(PluginType.INTERNAL, "graph", lambda _: graph)
    configs: dict[str, Any] = {r.uri: r.config() for r in wanted if r.config is not None}
    daemon = Daemon("0.0.test", folder / "root", folder / "state", str(folder / "sock"), str(folder / "sock.ttrpc"))
    graph = Graph([itself, *wanted], daemon, configs)
    return graph


@pytest.fixture(scope="module")
def ctr(shared_daemon: RunningDaemon) -> Ctr:
    return Ctr(shared_daemon, "default")


@pytest.fixture(scope="module")
def pulled(ctr: Ctr, busybox: str) -> str:
    """The image, pulled by `ctr`: its own resolver, our content store, differ and snapshotter."""
    assert "done: " in ctr("images", "pull", "--plain-http", busybox)
    return busybox


@pytest.fixture
def web(ctr: Ctr, pulled: str) -> Iterator[str]:
    """A container that runs until it is stopped."""
    id = f"web-{time.monotonic_ns()}"
    ctr.run(pulled, id, "sleep", "1000")
    yield id
    ctr.daemon.call("ctr", "tasks", "rm", "-f", id)
    ctr("containers", "rm", id)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """Stores over a private folder."""
    opened = Storage(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def view(storage: Storage) -> View:
    """The namespace `one`."""
    return storage.bind("one")


@pytest.fixture
def other(storage: Storage) -> View:
    """The namespace `two`."""
    return storage.bind("two")
