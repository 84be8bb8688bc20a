"""Warm up the zygote, so that a shim writes to as little of the memory that it shares as possible.

Python's interpreter rewrites code that runs often, and imports, caches and tables appear at first use. What happens
before the fork happens once; what happens after it costs each shim its own copy of a page. So a shim is rehearsed here,
with all that it does for a container but the OCI runtime itself, until nothing changes any more.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import NoReturn

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from moorage_api.errors import MoorageError
from moorage_api.wire import events_ttrpc_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim import log, publisher
from moorage_shim.client import Connection
from moorage_shim.keeper import HELD, REST, Exits, Keeper
from moorage_shim.loop import READ, Future
from moorage_shim.plug import plug
from moorage_shim.processes import Command, Ended, Forker
from moorage_shim.server import Server, method_table
from moorage_shim.shim import Shim, ShimConfig, Workshop
from moorage_shim.sockets import listen
from moorage_shim.tasks import SERVICES

# Python rewrites a function for the types that it meets after eight calls.
_ROUNDS = 12
_ID = "rehearsal"
_TIMEOUT = 10.0
_EVENTS = method_table([(publisher.SERVICE, events_ttrpc_pb2.DESCRIPTOR.services_by_name["Events"])])


class _Stage(Forker):
    """Instead of running the OCI runtime says that it ran, and writes something to the container's output.

    The pid of the container is the zygote's own: it exists, and nothing but signal 0 is sent to it.
    """

    def start(self, command: Command) -> tuple[int, Future[Ended], int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        os.close(write)
        for fd in command.fds.values():
            os.write(fd, b"a line\nand the beginning of one")
        with suppress(ValueError):
            place = list(command.argv).index("--pid-file") + 1
            with open(command.argv[place], "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
        ended: Future[Ended] = Future(self.loop)
        self.loop.later(0, lambda: ended.set(Ended(0, 0)))
        return 0, ended, read


class _Audience:
    """Takes the events."""

    async def Forward(self, request: events_ttrpc_pb2.ForwardRequest, _: float | None) -> Message:
        return Empty()


def warm_up(folder: str) -> None:
    """Rehearse in `folder`, which is made for it and removed afterwards. A failure costs memory, nothing else."""
    real = os.dup(2)
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 2)
    try:
        os.mkdir(folder, 0o700)
        for _ in range(_ROUNDS):
            _rehearse(folder)
        keeper = Keeper(_rest_or_end, [])
        keeper.run()
        keeper.close()
    except (MoorageError, OSError) as error:
        os.dup2(real, 2)
        log.failure("rehearsal of the zygote", error)
    finally:
        os.dup2(real, 2)
        os.close(real)
        os.close(null)
        _remove(folder)
    plug()


def _rest_or_end(channel: socket.socket, state: bytes, _: Exits) -> NoReturn:
    """What a worker does in the rehearsal of a keeper: rest at once with something that is ready, or end in the end."""
    if len(state) < _ROUNDS:
        read, write = os.pipe()
        os.write(write, b"x")
        message = REST.pack(0, len(state) + 1, 2) + HELD.pack(read, READ) + HELD.pack(write, 0)
        socket.send_fds(channel, [message], [read, write])
        channel.send(state + b"x")
    os._exit(0)


def _rehearse(folder: str) -> None:
    config = ShimConfig(_ID, _ID, folder, f"{folder}/shim", f"{folder}/events")
    shop = Workshop.open(config, _Stage)
    try:
        _Rehearsal(config, listen(config.socket), shop).run()
    finally:
        shop.close()


class _Rehearsal(Shim):
    """A shim that is also its own client and daemon."""

    def __init__(self, config: ShimConfig, listener: socket.socket, shop: Workshop) -> None:
        super().__init__(config, listener, shop)
        self._shop = shop

    async def _live(self) -> None:
        audience = Server(self._loop, listen(self._config.ttrpc_address), _EVENTS, {publisher.SERVICE: _Audience()})
        script = self._loop.spawn(self._play(), "rehearsal")
        await super()._live()
        await script
        audience.close()

    async def _play(self) -> None:
        client = Connection(self._loop, self._config.socket)
        folder = self._config.bundle
        service = SERVICES[-1]

        async def call(method: str, request: Message) -> None:
            await client.call(service, method, request.SerializeToString(), _TIMEOUT)

        log = f"cri://{folder}/log"
        await call("Connect", pb.ConnectRequest(id=_ID))
        await call("Create", pb.CreateTaskRequest(id=_ID, bundle=folder, stdout=log, stderr=log))
        await call("Start", pb.StartRequest(id=_ID))
        await call("State", pb.StateRequest(id=_ID))
        await call("Kill", pb.KillRequest(id=_ID, signal=0))
        self._shop.reaper.ended(os.getpid(), Ended(0, 0))
        await call("Wait", pb.WaitRequest(id=_ID))
        await call("Delete", pb.DeleteRequest(id=_ID))
        with suppress(MoorageError):
            await call("State", pb.StateRequest(id=_ID))
        await call("Shutdown", pb.ShutdownRequest(id=_ID))
        client.close()


def _remove(folder: str) -> None:
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(path, name))
        for name in folders:
            os.rmdir(os.path.join(path, name))
    with suppress(FileNotFoundError):
        os.rmdir(folder)
