"""The zygote: a process that has everything loaded and forks a shim when asked (`python -m moorage_shim.zygote FD`).

A fork takes a millisecond, and what it does not change it shares with all others. The zygote speaks over an inherited
Unix seqpacket socket, a JSON object a message: `{"id", "namespace", "bundle", "socket", "ttrpc_address"}` asks for a
shim and is answered by `{"pid"}` or `{"error", "code"}`. At the end of the socket it ends; its shims do not.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress

from moorage_api.errors import Code, MoorageError
from moorage_api.linux import syscalls
from moorage_shim.detach import run_detached
from moorage_shim.shim import ShimConfig
from moorage_shim.sockets import listen
from moorage_shim.warmup import warm_up

_MESSAGE_MAX = 64 << 10


def main() -> int:
    """Serve until the daemon goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    syscalls.set_process_name("moorage-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    # A shim that ends is reaped by the kernel: nobody asks the zygote how.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    while message := control.recv(_MESSAGE_MAX):
        control.sendall(json.dumps(_answer(message)).encode())
    return 0


def _answer(message: bytes) -> dict[str, object]:
    try:
        return {"pid": _fork(ShimConfig(**json.loads(message)))}
    except MoorageError as error:
        return {"error": error.message, "code": int(error.code)}
    except (OSError, TypeError, ValueError) as error:
        return {"error": f"shim was not started: {error}", "code": int(Code.INTERNAL)}


def _fork(config: ShimConfig) -> int:
    """The socket listens before the fork, so that whoever gets the answer can connect."""
    with listen(config.socket) as listener:
        try:
            pid = os.fork()
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(config.socket)
            raise
        if pid == 0:
            run_detached(config, listener)
    return pid


if __name__ == "__main__":
    sys.exit(main())
