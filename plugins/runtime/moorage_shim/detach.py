"""How a forked process becomes a shim that nobody's death concerns: first its keeper, and in it a worker."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from moorage_api.linux import syscalls
from moorage_shim import log
from moorage_shim.keeper import Exits, Keeper
from moorage_shim.rawfork import become_subreaper
from moorage_shim.shim import ShimConfig, Worker

# A shim is the last but the daemon to be killed for want of memory; the kubelet's convention for runtimes.
_OOM_SCORE = "-998"
_LOG = "shim.log"
_NAME = b"moorage-shim"
_WORKER = "moorage-worker"
# A first worker until it knows its shim: by it a spare is told from a shim, for the keeper's name is the same.
_SPARE = "moorage-spare"

Begin = Callable[[socket.socket], None]
"""What the first worker does with its socket to the keeper: find out which shim it is, then `serve`."""


def keep(begin: Begin, handed: Sequence[int]) -> NoReturn:
    """In the child of a fork, whose parent has called `prepare`: become a keeper and serve to the end. `handed` are all
    descriptors that are open; the first worker gets them, and the keeper lets go of them.
    """

    keeper = os.getpid()

    def work(channel: socket.socket, state: bytes, exits: Exits) -> NoReturn:
        try:
            syscalls.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)
            gc.enable()
            if state:
                syscalls.set_process_name(_WORKER)
                Worker.woken(channel, state, exits).run()
            else:
                syscalls.set_process_name(_SPARE)
                begin(channel)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
            log.failure("the shim failed", error)
        finally:
            os._exit(1)

    try:
        _detach()
        status = Keeper(work, handed).run()
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    except BaseException as error:  # noqa: BLE001 - as above
        log.failure("a keeper failed", error)
    finally:
        os._exit(1)


def serve(channel: socket.socket, config: ShimConfig, listener: socket.socket, ready: Callable[[], None]) -> None:
    """In the first worker: be this shim. `ready` is called when nothing can fail any more but the shim itself; an error
    before is raised."""
    syscalls.set_process_name(_WORKER)
    _redirect(config.bundle)
    worker = Worker(channel, config)
    worker.begin(listener)
    ready()
    log.info(f"shim of {config.namespace}/{config.id} is process {os.getppid()}")
    worker.run()


def prepare() -> None:
    """What a process does before it forks keepers, and they inherit: no input and output, no current folder, and the
    signals that end other processes ignored, since the containers need it: a shim ends when it is told to, or by
    SIGKILL."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_OOM_SCORE)


def _detach() -> None:
    os.setsid()
    os.dup2(1, 2)
    become_subreaper()
    comm = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(comm, _NAME)
    os.close(comm)


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
