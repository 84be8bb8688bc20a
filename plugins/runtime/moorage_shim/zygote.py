"""The zygote: a process that has everything loaded and forks shims (`python -m moorage_shim.zygote FD`).

A fork takes a millisecond, and what neither side of it changes is shared. So the zygote itself does next to nothing: it
forks one spare shim, which waits for a request, and the next when that one has got its own. The spare speaks over the
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

from moorage_api.errors import Code, MoorageError
from moorage_api.linux import syscalls
from moorage_shim.detach import keep, prepare, serve
from moorage_shim.holes import fill_holes
from moorage_shim.rawfork import fork
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
    warm_up()
    prepare()
    # A shim that ends is reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    fill_holes()
    while True:
        read, write = os.pipe()
        if fork() == 0:
            keep(Spare(control, write).begin, [control.fileno(), read, write])
        os.close(write)
        word = os.read(read, 1)
        os.close(read)
        if word == _QUIT:
            return 0
        if not word:
            time.sleep(_PAUSE)


class Spare:
    """A shim that does not know yet which one it is."""

    def __init__(self, control: socket.socket, zygote: int) -> None:
        self._control = control
        self._zygote = zygote

    def begin(self, channel: socket.socket) -> None:
        """Wait for a request and fulfil it. One that can't be fulfilled is answered, and the next one waited for."""
        while message := self._control.recv(_MESSAGE_MAX):
            try:
                self._be(channel, ShimConfig(**json.loads(message)))
            except MoorageError as error:
                self._refuse(error.message, error.code)
            except (OSError, TypeError, ValueError) as error:
                self._refuse(f"shim was not started: {error}", Code.INTERNAL)
            else:
                return
        with suppress(BrokenPipeError):
            os.write(self._zygote, _QUIT)

    def _be(self, channel: socket.socket, config: ShimConfig) -> None:
        """The socket listens before the answer, so that whoever gets it can connect."""
        listener = listen(config.socket)
        try:
            serve(channel, config, listener, self._ready)
        except BaseException:
            listener.close()
            with suppress(FileNotFoundError):
                os.unlink(config.socket)
            raise

    def _ready(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self._zygote, _TAKEN)
        self._control.sendall(json.dumps({"pid": os.getppid()}).encode())
        self._control.close()
        os.close(self._zygote)

    def _refuse(self, message: str, code: Code) -> None:
        self._control.sendall(json.dumps({"error": message, "code": int(code)}).encode())


if __name__ == "__main__":
    sys.exit(main())
