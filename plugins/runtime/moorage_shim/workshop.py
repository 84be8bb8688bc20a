"""The workshop: a process that has all the code of a shim loaded, and forks a worker for whoever asks (`python -m
moorage_shim.workshop serve FD`). `… one FD` is a worker alone, for a keeper that has no workshop.

It keeps one spare worker ahead, which reads from the inherited Unix seqpacket socket what a keeper sends: the other end of a
socket to itself. The workshop ends when nobody is left who could ask: it outlives the daemon for as long as the
keepers of its zygote do, so that a shim's workers are all of one version.
"""

from __future__ import annotations

import encodings.ascii  # noqa: F401 (which each worker would load by itself, at its first call)
import gc
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from moorage_api.linux import syscalls
from moorage_shim import scratch, sealed
from moorage_shim.libc import fork
from moorage_shim.worker import work
from moorage_shim.zygote import ASK, TAKEN

_NAME = "moorage-workshop"
_QUIT = b"q"
# A spare that dies by itself is replaced, not too often.
_PAUSE = 0.1


def main() -> int:
    """Be what the arguments say."""
    _, what, fd = sys.argv
    channel = socket.socket(fileno=int(fd))
    channel.set_inheritable(False)
    os.dup2(1, 2)
    if what == "one":
        work(channel)
    syscalls.set_process_name(_NAME)
    # A worker that ends is reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    return _serve(channel)


def _serve(requests: socket.socket) -> int:
    """Fork spares until nobody can ask any more."""
    copies = sealed.open_workshop()
    scratch.open_workshop()
    while True:
        read, write = os.pipe()
        if fork() == 0:
            os.close(read)
            copies.close()
            _wait(requests, write)
        os.close(write)
        _attend(read, copies)
        word = os.read(read, 1)
        os.close(read)
        if word == _QUIT:
            return 0
        if not word:
            time.sleep(_PAUSE)


def _attend(spare: int, copies: socket.socket) -> None:
    """Make the copies that workers miss, until the spare is taken or dead."""
    poll = select.poll()
    poll.register(spare, select.POLLIN)
    poll.register(copies, select.POLLIN)
    while all(fd != spare for fd, _ in poll.poll()):
        sealed.serve(copies)


def _wait(requests: socket.socket, workshop: int) -> NoReturn:
    """In a spare: wait for a keeper, and be its worker."""
    try:
        word, fds, _, _ = socket.recv_fds(requests, len(ASK), 1, socket.MSG_CMSG_CLOEXEC)
        with suppress(BrokenPipeError):
            os.write(workshop, TAKEN if word else _QUIT)
        os.close(workshop)
        requests.close()
        if fds:
            work(socket.socket(fileno=fds[0]))
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
