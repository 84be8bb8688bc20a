"""How a forked process becomes a shim that nobody's death concerns."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from moorage_api.linux import syscalls
from moorage_shim import log
from moorage_shim.shim import ShimConfig, serve

# A shim is the last but the daemon to be killed for want of memory; the kubelet's convention for runtimes.
_OOM_SCORE = "-998"
_LOG = "shim.log"


def run_detached(config: ShimConfig, listener: socket.socket, ready: Callable[[], None]) -> NoReturn:
    """In the child of a fork: leave the parent's behind, call `ready`, serve on the listening socket, and exit.

    An error before `ready` is raised, since nothing of the shim is there yet.
    """
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _redirect(config.bundle)
    syscalls.set_process_name("moorage-shim")
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(_OOM_SCORE)
    ready()
    status = 1
    try:
        _close_others(listener.fileno())
        gc.enable()
        serve(config, listener)
        status = 0
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
        log.failure("the shim failed", error)
    finally:
        os._exit(status)


def _redirect(bundle: str) -> None:
    """No input; output to containerd's `log` FIFO where there is one, else to a file in the bundle.

    The FIFO is opened for both directions: without a reader a line is lost, and nothing waits.
    """
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    try:
        out = os.open(os.path.join(bundle, "log"), os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        out = os.open(os.path.join(bundle, _LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for fd in (1, 2):
        os.dup2(out, fd)
    os.close(out)
    os.close(null)


def _close_others(keep: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != keep:
            with suppress(OSError):
                os.close(fd)
