"""The zygote: a process that has everything loaded and forks shims (`python -m moorage_shim.zygote FD`).

A fork takes a millisecond, and what neither side of it changes is shared. So the zygote itself does next to nothing: it
forks one spare child, which waits for a request, and the next when that one has got its own. The spare speaks over the
inherited Unix seqpacket socket, a JSON object a message: `{"id", "namespace", "bundle", "socket", "ttrpc_address"}` is
answered by `{"pid"}`, or by `{"error", "code"}`. At the end of the socket spare and zygote end; the shims do not.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from moorage_api.errors import Code, MoorageError
from moorage_api.linux import syscalls
from moorage_shim import log
from moorage_shim.detach import run_detached
from moorage_shim.shim import ShimConfig
from moorage_shim.sockets import listen
from moorage_shim.warmup import warm_up

_MESSAGE_MAX = 64 << 10
_TAKEN = b"t"
_QUIT = b"q"
# A spare that dies by itself is replaced, not too often.
_PAUSE = 0.1


def main() -> int:
    """Fork spares until the daemon goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    syscalls.set_process_name("moorage-zygote")
    # A terminal's interrupt is meant for the daemon; and a shim that ends is reaped by the kernel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up(f"/tmp/.moorage-zygote-{os.getpid()}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        read, write = os.pipe()
        if os.fork() == 0:
            _wait_and_become_shim(control, write)
        os.close(write)
        word = os.read(read, 1)
        os.close(read)
        if word == _QUIT:
            return 0
        if not word:
            time.sleep(_PAUSE)


def _wait_and_become_shim(control: socket.socket, parent: int) -> NoReturn:
    """A request that can't be fulfilled is answered, and the next one waited for."""
    try:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        while message := control.recv(_MESSAGE_MAX):
            try:
                _become_shim(ShimConfig(**json.loads(message)), control, parent)
            except MoorageError as error:
                _refuse(control, error.message, error.code)
            except (OSError, TypeError, ValueError) as error:
                _refuse(control, f"shim was not started: {error}", Code.INTERNAL)
        with suppress(BrokenPipeError):
            os.write(parent, _QUIT)
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into the zygote's code
        log.failure("a spare of the zygote failed", error)
    finally:
        os._exit(0)


def _become_shim(config: ShimConfig, control: socket.socket, parent: int) -> NoReturn:
    """The socket listens before the answer, so that whoever gets it can connect."""

    def ready() -> None:
        syscalls.set_parent_death_signal(0)
        os.write(parent, _TAKEN)
        control.sendall(json.dumps({"pid": os.getpid()}).encode())

    listener = listen(config.socket)
    try:
        run_detached(config, listener, ready)
    except BaseException:
        listener.close()
        os.unlink(config.socket)
        raise


def _refuse(control: socket.socket, message: str, code: Code) -> None:
    control.sendall(json.dumps({"error": message, "code": int(code)}).encode())


if __name__ == "__main__":
    sys.exit(main())
