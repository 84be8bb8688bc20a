"""Logging programs: `binary:///path?key=value` (containerd, runtime/v2, logging).

The program gets the container's output as descriptors 3 and 4 and closes descriptor 5 (or writes to it) when it is
ready. Its arguments are the keys and values of the query; its environment is the container's id and namespace.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from moorage_api.errors import DeadlineExceeded, FailedPrecondition
from moorage_shim import log
from moorage_shim.loop import READ, Future
from moorage_shim.processes import Command, Ended, Forker, kill_quietly
from moorage_shim.stdio.uri import parse_uri

_READY_TIMEOUT = 10.0
# Whoever ends with its input need not be told to end, and would lose what it has not written.
_LAST_WORDS = 0.5
_END_TIMEOUT = 12.0


class Logger:
    """A running logging program. `stdout` and `stderr` are the writing ends that it reads from, until given away."""

    def __init__(self, forker: Forker, pid: int, ended: Future[Ended], stdout: int, stderr: int) -> None:
        self._forker = forker
        self._pid = pid
        self._ended = ended
        self.stdout = stdout
        self.stderr = stderr

    def wake(self) -> None:
        """Learn of its end again, after a rest."""
        if not self._ended.done:
            self._ended = self._forker.reaper.watch(self._pid, adopted=True)

    async def stop(self) -> None:
        """Give it time to write what it has, then kill it. It saw the end of its input before."""
        with suppress(DeadlineExceeded):
            await self._forker.loop.within(self._ended, _LAST_WORDS, "logging program")
        if self._ended.done:
            return
        kill_quietly(self._pid, signal.SIGTERM)
        try:
            await self._forker.loop.within(self._ended, _END_TIMEOUT, "logging program")
        except DeadlineExceeded:
            log.warning(f"logging program {self._pid} did not end and is killed")
            kill_quietly(self._pid, signal.SIGKILL)


async def start_logger(forker: Forker, uri: str, id: str, namespace: str) -> Logger:
    """Start the program and wait until it is ready; on an error nothing of it is left."""
    parts = parse_uri(uri)
    arguments = [word for pair in parts.query for word in pair if word]
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    command = Command(
        [parts.path, *arguments],
        env={"CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace},
        fds={3: out_read, 4: err_read, 5: ready_write},
        outlives=True,
    )
    try:
        child, errors = await forker.start(command)
    except BaseException:
        _close(out_read, out_write, err_read, err_write, ready_read, ready_write)
        raise
    _close(out_read, err_read, ready_write)
    logger = Logger(forker, child.pid, child.ended, out_write, err_write)
    try:
        await _until_ready(forker, ready_read, errors, parts.path, strict=parts.scheme == "binary-v2")
    except BaseException:
        _close(out_write, err_write)
        kill_quietly(child.pid, signal.SIGKILL)
        raise
    finally:
        _close(ready_read, errors)
    return logger


async def _until_ready(forker: Forker, ready: int, errors: int, path: str, *, strict: bool) -> None:
    what = f"logging program {path}"
    await forker.loop.ready(ready, READ, _READY_TIMEOUT, what)
    word = os.read(ready, 1)
    os.set_blocking(errors, False)
    with suppress(BlockingIOError):
        reason = os.read(errors, 4096)
        if reason:
            raise FailedPrecondition(f"{what}: {reason.decode(errors='replace')}")
    if strict and not word:
        raise FailedPrecondition(f"{what} ended before it was ready")


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
