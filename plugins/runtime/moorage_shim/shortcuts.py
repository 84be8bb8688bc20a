"""What `start` of runc and crun does, done without them: each call is a process of its own, and in this one there is
next to nothing that must be done by it.

Both wait, with a container that is made, at a FIFO beside its state (`exec.fifo`): runc's container writes to it as soon as
somebody reads (libcontainer, `handleFifo`), crun's reads what somebody writes (libcrun, `libcrun_status_write_exec_fifo`).
Whatever is otherwise than expected is left to the runtime: then `start` returns False, having done nothing that the
runtime minds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from moorage_api.errors import DeadlineExceeded
from moorage_shim.loop import READ, Loop
from moorage_shim.oci import OciRuntime

_FIFO = "exec.fifo"
_MOMENT = 0.25
# What crun runs when it starts a container; runc has run it before.
_HOOKS = b'"poststart"'


async def start(loop: Loop, runtime: OciRuntime, id: str, alive: Callable[[], bool]) -> bool:
    """Let the first process run the user's program; `alive` tells whether that process is there."""
    fifo = os.path.join(runtime.root, id, _FIFO)
    if "NOTIFY_SOCKET" in os.environ or not _plain(runtime):
        return False
    try:
        if runtime.name == "crun":
            _write(fifo)
        elif not await _read(loop, fifo, alive):
            return False
        os.unlink(fifo)
    except OSError:
        return False
    return True


def _plain(runtime: OciRuntime) -> bool:
    """Whether it is a runtime that is known here, without hooks that it would have to run."""
    if runtime.name not in ("runc", "crun") or runtime.systemd_cgroup:
        return False
    try:
        with open(os.path.join(runtime.bundle, "config.json"), "rb") as file:
            return _HOOKS not in file.read()
    except OSError:
        return False


def _write(fifo: str) -> None:
    """`OSError` when nobody reads."""
    fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(fd, b"\0")
    finally:
        os.close(fd)


async def _read(loop: Loop, fifo: str, alive: Callable[[], bool]) -> bool:
    """False when the process ends without having written."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while alive():
            with suppress(DeadlineExceeded):
                await loop.ready(fd, READ, _MOMENT, fifo)
                return bool(os.read(fd, 1))
    finally:
        os.close(fd)
    return False
