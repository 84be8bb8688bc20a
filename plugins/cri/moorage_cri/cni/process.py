"""Run a short-lived program with the least cost: no pipes, no thread, one descriptor that says when it has ended.

Its input and output are files in memory, so that nothing is copied through the event loop while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from moorage_api.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from moorage_cri.concurrency import finish

logger = logging.getLogger(__name__)

_OUTPUT_MAX = 4 << 20
_REAP_SECONDS = 5.0
# Python ignores these; a program must not inherit that.
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended: its exit code, or minus the signal that killed it."""

    status: int
    stdout: bytes
    stderr: bytes


async def run(argv: list[str], env: Mapping[str, str], stdin: bytes, timeout: float) -> Completed:
    """Run `argv` (its first word is a path) in a process group of its own.

    After `timeout` seconds, or when the caller is cancelled, the whole group is killed and reaped before this raises.
    `DeadlineExceeded`; `Unavailable` where it cannot be run; `ResourceExhausted` for more than 4 MiB of output.
    """
    with ExitStack() as stack:
        files = [_memory(stack, data) for data in (stdin, b"", b"")]
        pid = _spawn(argv, env, files)
        status = await _wait(pid, argv[0], timeout)
        return Completed(status, _contents(files[1], argv[0]), _contents(files[2], argv[0]))


def _spawn(argv: list[str], env: Mapping[str, str], files: Sequence[int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
    try:
        return os.posix_spawn(argv[0], argv, env, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=_SIGNALS)
    except OSError as error:
        raise Unavailable(f"cannot run {argv[0]}: {error.strerror}") from error


async def _wait(pid: int, name: str, timeout: float) -> int:
    fd = os.pidfd_open(pid)
    try:
        try:
            async with asyncio.timeout(timeout):
                await _readable(fd)
        finally:
            # After a normal end this finds what the program left behind in its group; usually nothing.
            _kill_group(pid)
            await finish(_reapable(fd, name))
    except TimeoutError as error:
        raise DeadlineExceeded(f"{name} did not finish within {timeout:g} s and was killed") from error
    finally:
        status = _reap(fd)
        os.close(fd)
    return status


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)


async def _reapable(fd: int, name: str) -> None:
    """Wait until a killed program is gone; not for ever, since one that the kernel holds cannot be hurried."""
    try:
        async with asyncio.timeout(_REAP_SECONDS):
            await _readable(fd)
    except TimeoutError:
        logger.error("%s was killed and is still there: the kernel holds it", name)


def _reap(fd: int) -> int:
    result = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
    if result is None:
        return -signal.SIGKILL
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _kill_group(pid: int) -> None:
    # The group's leader is not reaped yet, so the number cannot belong to anyone else.
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _memory(stack: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("moorage-cni")
    stack.callback(os.close, fd)
    if data:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int, name: str) -> bytes:
    size = os.fstat(fd).st_size
    if size > _OUTPUT_MAX:
        raise ResourceExhausted(f"{name} wrote {size} bytes: at most {_OUTPUT_MAX} are read")
    return os.pread(fd, size, 0)
