"""One shim: the loop, its services, and how it begins and ends."""

from __future__ import annotations

import os
import pickle
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from moorage_api.wire import moorage_shim_pb2, runtime_sandbox_pb2, shim_v3_pb2
from moorage_shim import attaching, log, logs, sandbox, tasks
from moorage_shim.attaching import Attaching
from moorage_shim.launching import Host
from moorage_shim.logs import Logs
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Forker, Reaper
from moorage_shim.publisher import Publisher
from moorage_shim.rest import Handed, KeeperLink, next_patience, pack, unpack
from moorage_shim.sandbox import Sandbox
from moorage_shim.server import Server, method_table
from moorage_shim.tasks import Tasks

# How long the end waits for the last events to be taken by the daemon.
_FLUSH = 3.0
_LOG = "shim.log"


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
class Kit:
    """What each worker makes for itself."""

    loop: Loop
    reaper: Reaper
    publisher: Publisher
    host: Host

    @classmethod
    def open(cls, config: ShimConfig, pid: int) -> Kit:
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

    def __init__(self, config: ShimConfig, listener: socket.socket, kit: Kit) -> None:
        self._config = config
        self._loop = kit.loop
        self._publisher = kit.publisher
        self._end: Future[None] = Future(self._loop, dormant=True)
        self._tasks = Tasks(kit.host, self._on_task_shutdown)
        self._sandbox = Sandbox(kit.host, self._tasks, self._on_sandbox_shutdown)
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

    def __init__(self, channel: socket.socket, keeper: int, config: ShimConfig, *, patience: float = 0.0) -> None:
        """`keeper` is the process that the shim is known by."""
        self._config = config
        self._kit = Kit.open(config, keeper)
        self._link = KeeperLink(channel, self._kit.loop, self._kit.reaper)
        self._kit.host.forker.keeper = self._link
        self._kit.loop.patience = patience or self._kit.loop.patience
        self._shim: Shim | None = None

    @classmethod
    def woken(cls, channel: socket.socket, keeper: int, handed: Handed) -> Worker:
        """Go on where another rested, or begin with what `first_state` gave."""
        config, patience, rested, packed = pickle.loads(handed.state)
        worker = cls(channel, keeper, config, patience=patience and next_patience(patience, rested))
        if isinstance(packed, int):
            worker.begin(socket.socket(fileno=packed))
        else:
            worker._shim = unpack(packed, worker._kit.names())
            worker._shim.wake()
        worker._link.tell(handed.exits)
        return worker

    def begin(self, listener: socket.socket) -> None:
        """Begin from nothing."""
        _redirect(self._config.bundle)
        self._shim = Shim(self._config, listener, self._kit)
        log.info(f"shim of {self._config.namespace}/{self._config.id} is process {self._kit.host.pid}")

    def run(self) -> NoReturn:
        """Serve until a rest, or until shut down."""
        assert self._shim is not None
        self._kit.loop.on_rest = self._rest
        self._shim.run()
        self._link.end()

    def _rest(self) -> None:
        self._kit.publisher.close()
        packed = pack(self._shim, self._kit.names())
        self._link.rest(pickle.dumps((self._config, self._kit.loop.patience, time.monotonic(), packed)))


def first_state(config: ShimConfig, listener: int) -> bytes:
    """The state of a shim that nobody has called yet."""
    return pickle.dumps((config, 0.0, 0.0, listener))


def _redirect(bundle: str) -> None:
    """No input; output to containerd's `log` FIFO where there is one, else to a file in the bundle.

    The FIFO is opened for both directions: without a reader a line is lost, and nothing waits.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        out = os.open(os.path.join(bundle, "log"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        out = os.open(os.path.join(bundle, _LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for target, fd in ((0, null), (1, out), (2, out)):
        os.dup2(fd, target)
    os.close(out)
    os.close(null)
