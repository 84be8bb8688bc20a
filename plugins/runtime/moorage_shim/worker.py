"""How a worker begins: it greets its keeper, takes what it is handed, and is the shim until the next rest."""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import struct
from contextlib import suppress
from typing import NoReturn

from moorage_api.errors import Code, MoorageError
from moorage_api.linux import syscalls
from moorage_shim import log, scratch, sealed
from moorage_shim.keeper import HELLO
from moorage_shim.libc import fork
from moorage_shim.rest import hand_over, move, receive
from moorage_shim.shim import ShimConfig, Worker
from moorage_shim.sockets import listen
from moorage_shim.zygote import SPARE_CONTROL, SPARE_PIPE, TAKEN

_MESSAGE_MAX = 64 << 10
_FD_MAX = 1 << 20
_CREDENTIALS = struct.Struct("3i")


def fork_worker(fd: int) -> int:
    """A way to get a worker (`keeper.Way`): this process, once more. What the keeper has is closed in it, and comes again."""
    pid = fork()
    if pid == 0:
        os.closerange(3, fd)
        os.closerange(fd + 1, _FD_MAX)
        sealed.forget()
        scratch.forget()
        work(socket.socket(fileno=fd))
    return pid


def work(channel: socket.socket) -> NoReturn:
    """Be a worker for the keeper at the other end, in a process that is there for nothing else."""
    try:
        channel = move(channel)
        keeper = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        syscalls.set_process_name(f"moorage-{keeper}")
        channel.sendall(HELLO)
    except OSError:
        # The keeper has not waited for this.
        os._exit(0)
    try:
        gc.enable()
        handed = receive(channel)
        if handed.state:
            Worker.woken(channel, keeper, handed).run()
        else:
            _Spare(channel, keeper).begin()
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
        log.failure("the shim failed", error)
    finally:
        os._exit(1)


class _Spare:
    """The first worker of a shim that the zygote has forked. It speaks over the zygote's socket, a JSON object a message:
    `{"id", "namespace", "bundle", "socket", "ttrpc_address"}` is answered by `{"pid"}`, or by `{"error", "code"}`."""

    def __init__(self, channel: socket.socket, keeper: int) -> None:
        self._channel = channel
        self._keeper = keeper
        self._control = socket.socket(fileno=SPARE_CONTROL)

    def begin(self) -> None:
        """Fulfil the request that has come. When that is not possible the answer says so, and the keeper is spare again."""
        try:
            self._be(ShimConfig(**json.loads(self._control.recv(_MESSAGE_MAX))))
        except MoorageError as error:
            self._refuse(error.message, error.code)
        except (OSError, TypeError, ValueError) as error:
            self._refuse(f"shim was not started: {error}", Code.INTERNAL)

    def _be(self, config: ShimConfig) -> None:
        """The socket listens before the answer, so that whoever gets it can connect."""
        listener = listen(config.socket)
        try:
            worker = Worker(self._channel, self._keeper, config)
            worker.begin(listener)
            with suppress(BrokenPipeError):
                os.write(SPARE_PIPE, TAKEN)
            self._control.sendall(json.dumps({"pid": self._keeper}).encode())
        except BaseException:
            listener.close()
            with suppress(FileNotFoundError):
                os.unlink(config.socket)
            raise
        self._control.close()
        os.close(SPARE_PIPE)
        worker.run()

    def _refuse(self, message: str, code: Code) -> None:
        self._control.sendall(json.dumps({"error": message, "code": int(code)}).encode())
        hand_over(self._channel, b"", {SPARE_CONTROL: select.POLLIN, SPARE_PIPE: 0})
