"""How a container is stopped: its signal, the grace period, then SIGKILL."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

from moorage_api.errors import DeadlineExceeded, NotFound
from moorage_cri.container import signals
from moorage_cri.context import Cri
from moorage_cri.model import UNKNOWN, UNKNOWN_EXIT_CODE, Container

# How long SIGKILL may take to be seen as the container's end, in seconds.
_KILL_SECONDS = 20.0
# How long what it held may take to be released, in seconds.
_BURIAL_SECONDS = 2.0


async def stop(cri: Cri, container: Container, grace: float) -> None:
    """Stop a container and return when it has ended; one that does not run is no error.

    With a `grace` period in seconds its stop signal comes first, and only once however often this is called.
    `DeadlineExceeded` where it survives SIGKILL (the kernel or the shim hangs).
    """
    if not container.running:
        return
    if grace > 0:
        if not container.signalled:
            container.signalled = True
            await _signal(cri, container, signals.number(container.stop_signal))
        if await _ended(container, grace):
            return
    await _signal(cri, container, signal.SIGKILL)
    if not await _ended(container, _KILL_SECONDS):
        raise DeadlineExceeded(f"container {container.id} did not end within {_KILL_SECONDS:g} s of SIGKILL")


async def buried(container: Container) -> None:
    """Wait until a container that has ended holds nothing any more: its end is on disk, its root file system unmounted.
    Not for long, since its shim may hang; who needs it done does it again."""
    if container.aftermath is not None and not container.aftermath.done():
        await asyncio.wait([container.aftermath], timeout=_BURIAL_SECONDS)


def lost(container: Container) -> None:
    """Say of a container that it has ended, and that how is not known."""
    run = container.run
    run.pid, run.exit_code, run.reason = 0, UNKNOWN_EXIT_CODE, run.reason or UNKNOWN
    run.finished_at = time.time_ns()
    container.stopped.set()


async def _signal(cri: Cri, container: Container, number: int) -> None:
    # It may end by itself meanwhile.
    with suppress(NotFound):
        await cri.k8s.tasks.kill(container.id, number)


async def _ended(container: Container, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await container.stopped.wait()
    except TimeoutError:
        return False
    return True
