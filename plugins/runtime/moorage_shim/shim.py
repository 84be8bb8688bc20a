"""One shim: the loop, its services, and how it begins and ends."""

from __future__ import annotations

import os
import pickle
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from moorage_api.wire import moorage_shim_pb2, runtime_sandbox_pb2, shim_v3_pb2
from moorage_shim import attaching, logs, sandbox, tasks
from moorage_shim.attaching import Attaching
from moorage_shim.keeper import Exits
from moorage_shim.launching import Host
from moorage_shim.logs import Logs
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Forker, Reaper
from moorage_shim.publisher import Publisher
from moorage_shim.rest import KeeperLink, next_patience, pack, unpack
from moorage_shim.sandbox import Sandbox
from moorage_shim.server import Server, method_table
from moorage_shim.tasks import Tasks

# How long the end waits for the last events to be taken by the daemon.
_FLUSH = 3.0


_TASK = shim_v3_pb2.DESCRIPTOR.services_by_name["Task"]
_METHODS = method_table(
    [
        *((name, _TASK) for name in tasks.SERVICES),
        (sandbox.SERVICE, runtime_sandbox_pb2.DESCRIPTOR.services_by_name["Sandbox"]),
        (logs.SERVICE, moorage_shim_pb2.DESCRIPTOR.services_by_name["Logs"]),
        (attaching.SERVICE, moorage_shim_pb2.DESCRIPTOR.services_by_name["Streams"]),
    ]
)


@dataclass(frozen=True, slots=True)
class ShimConfig:
    """Who this shim is. `socket` is removed at the end; `ttrpc_address` is where events go."""

    id: str
    namespace: str
    bundle: str
    socket: str
    ttrpc_address: str


@dataclass(frozen=True, slots=True)
class Workshop:
    """What each worker makes for itself."""

    loop: Loop
    reaper: Reaper
    publisher: Publisher
    host: Host

    @classmethod
    def open(cls, config: ShimConfig, pid: int) -> Workshop:
        """`pid` is the process that the shim is known by."""
        loop = Loop()
        reaper = Reaper(loop)
        publisher = Publisher(loop, config.ttrpc_address, config.namespace)
        return cls(loop, reaper, publisher, Host(Forker(loop, reaper), publisher, config.namespace, pid))

    def names(self) -> dict[str, object]:
        """What a state names instead of holding it."""
        made = {name: getattr(self, name) for name in ("loop", "reaper", "publisher", "host")}
        return {**made, "forker": self.host.forker, "methods": _METHODS}


class Shim:
    """The services over one listening socket."""

    def __init__(self, config: ShimConfig, listener: socket.socket, shop: Workshop) -> None:
        self._config = config
        self._loop = shop.loop
        self._publisher = shop.publisher
        self._end: Future[None] = Future(self._loop, dormant=True)
        self._tasks = Tasks(shop.host, self._on_task_shutdown)
        self._sandbox = Sandbox(shop.host, self._tasks, self._on_sandbox_shutdown)
        services: dict[str, object] = dict.fromkeys(tasks.SERVICES, self._tasks)
        services |= {sandbox.SERVICE: self._sandbox, logs.SERVICE: Logs(self._tasks)}
        services[attaching.SERVICE] = Attaching(self._tasks)
        self._server = Server(self._loop, listener, _METHODS, services)

    def wake(self) -> None:
        """Go on after a rest."""
        self._server.wake()
        self._tasks.wake()
        self._sandbox.wake()

    def run(self) -> None:
        """Serve until shut down."""
        self._loop.run(self._loop.spawn(self._live(), "shim"))

    async def _live(self) -> None:
        await self._end
        with suppress(FileNotFoundError):
            os.unlink(self._config.socket)
        self._server.close()
        await self._publisher.flush(_FLUSH)

    def _on_task_shutdown(self, _: bool) -> None:
        """A pod's shim ends with the sandbox, not with the pod's last task."""
        if not self._sandbox.active:
            self._end.set(None)

    def _on_sandbox_shutdown(self) -> None:
        self._end.set(None)


class Worker:
    """One life between two rests, or the whole of it."""

    def __init__(self, channel: socket.socket, config: ShimConfig, *, patience: float = 0.0) -> None:
        self._config = config
        self._shop = Workshop.open(config, pid=os.getppid())
        self._link = KeeperLink(channel, self._shop.loop, self._shop.reaper)
        self._shop.loop.patience = patience or self._shop.loop.patience
        self._shim: Shim | None = None

    @classmethod
    def woken(cls, channel: socket.socket, state: bytes, exits: Exits) -> Worker:
        """Go on where another rested."""
        config, patience, rested, packed = pickle.loads(state)
        worker = cls(channel, config, patience=next_patience(patience, rested))
        worker._shim = unpack(packed, worker._shop.names())
        worker._shim.wake()
        worker._link.tell(exits)
        return worker

    def begin(self, listener: socket.socket) -> None:
        """Begin from nothing."""
        self._shim = Shim(self._config, listener, self._shop)

    def run(self) -> None:
        """Serve until a rest, which ends the process, or until shut down."""
        assert self._shim is not None
        self._shop.loop.on_rest = self._rest
        self._shim.run()

    def _rest(self) -> None:
        self._shop.publisher.close()
        packed = pack(self._shim, self._shop.names())
        self._link.rest(pickle.dumps((self._config, self._shop.loop.patience, time.monotonic(), packed)))
