"""One shim: the loop, its services, and how it begins and ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from moorage_api.linux import syscalls
from moorage_api.wire import moorage_shim_pb2, runtime_sandbox_pb2, shim_v3_pb2
from moorage_shim import log, logs, sandbox, tasks
from moorage_shim.launching import Host
from moorage_shim.logs import Logs
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Forker, Reaper
from moorage_shim.publisher import Publisher
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


class Shim:
    """The services over one listening socket."""

    def __init__(
        self, config: ShimConfig, listener: socket.socket, forker: Callable[[Loop, Reaper], Forker] = Forker
    ) -> None:
        self._config = config
        self._loop = Loop()
        self._reaper = Reaper(self._loop)
        self._end: Future[None] = Future(self._loop)
        self._publisher = Publisher(self._loop, config.ttrpc_address, config.namespace)
        host = Host(forker(self._loop, self._reaper), self._publisher, config.namespace)
        self._tasks = Tasks(host, self._on_task_shutdown)
        self._sandbox = Sandbox(host, self._tasks, lambda: self._end.set(None))
        services: dict[str, object] = dict.fromkeys(tasks.SERVICES, self._tasks)
        services |= {sandbox.SERVICE: self._sandbox, logs.SERVICE: Logs(self._tasks)}
        self._server = Server(self._loop, listener, _METHODS, services)

    def run(self) -> None:
        """Serve until shut down, then let go of everything."""
        try:
            self._loop.run(self._loop.spawn(self._live(), "shim"))
        finally:
            self._reaper.close()
            self._publisher.close()
            self._loop.close()

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


def serve(config: ShimConfig, listener: socket.socket) -> None:
    """Become a shim and serve until shut down. The process must be single-threaded; signals to end it are ignored,
    since the containers need it: it ends when it is told to, or by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    syscalls.set_child_subreaper()
    log.info(f"shim of {config.namespace}/{config.id} is process {os.getpid()}")
    Shim(config, listener).run()
