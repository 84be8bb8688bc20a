"""One process of a container: the first one, or one that was added to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from moorage.stdio import Fifos, Sink, Source, collector
from moorage.tasks import Tasks
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound, Unavailable
from moorage_api.runtime import Exit, Process

_RESTART_SECONDS = 15.0
_PAUSE_SECONDS = 0.2
# A call that lasts longer than this had reached a daemon before it failed.
_CONNECTED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a process that ran to its end gave: its exit status (128 plus the signal that killed it) and its output."""

    exit_status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Streams:
    """Where what a process writes goes, and where what it reads comes from (None: nowhere). At the end of `stdin` the
    process's input is at its end, too, unless `closes_input` is false: then other clients may go on."""

    stdout: Sink
    stderr: Sink | None = None
    stdin: Source | None = None
    closes_input: bool = True


class ProcessHandle:
    """A created process. `exec_id` is empty for a container's first one."""

    def __init__(self, tasks: Tasks, container_id: str, exec_id: str = "") -> None:
        self._tasks = tasks
        self.container_id = container_id
        self.exec_id = exec_id

    async def start(self) -> int:
        """Let it run; returns its pid. On an error the process is gone as if it had never been created."""
        try:
            return await self._tasks.start(self.container_id, self.exec_id)
        except MoorageError:
            with contextlib.suppress(NotFound, FailedPrecondition):
                await self.delete()
            raise

    async def get(self) -> Process:
        """`NotFound`."""
        return await self._tasks.get(self.container_id, self.exec_id)

    async def wait(self) -> Exit:
        """Return when it has exited, also over a restart of the daemon, since processes outlive it. `NotFound`;
        `Unavailable` where the daemon, or the process's shim, stays away for 15 seconds."""
        asked = answered = time.monotonic()
        while True:
            try:
                return await self._tasks.wait(self.container_id, self.exec_id)
            except Unavailable:
                now = time.monotonic()
                if now - asked > _CONNECTED_SECONDS:
                    answered = now
                if now - answered > _RESTART_SECONDS:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
            asked = time.monotonic()

    async def kill(self, signal: int) -> None:
        """Send a signal. `NotFound` also when it has exited."""
        await self._tasks.kill(self.container_id, signal, self.exec_id)

    async def resize(self, width: int, height: int) -> None:
        """Tell its terminal the size in characters."""
        await self._tasks.resize(self.container_id, width, height, self.exec_id)

    async def close_stdin(self) -> None:
        """Let it see the end of its input. One that has exited needs none: no error."""
        with contextlib.suppress(NotFound, FailedPrecondition):
            await self._tasks.close_io(self.container_id, self.exec_id)

    async def delete(self) -> Exit:
        """Forget it after its end. `FailedPrecondition` while it runs, `NotFound`."""
        return await self._tasks.delete(self.container_id, self.exec_id)

    async def run(self, fifos: Fifos, streams: Streams, on_start: Callable[[], Awaitable[None]] | None = None) -> Exit:
        """Start it and hand its streams on until it has ended and all has been read. It stays to be deleted.

        `on_start` is awaited when it runs. Errors of `start`; what a sink raises is raised at once, and the process
        goes on.
        """

        async def begin() -> None:
            await self.start()
            if on_start is not None:
                await on_start()

        return await self.join(fifos, streams, begin)

    async def join(self, fifos: Fifos, streams: Streams, begin: Callable[[], Awaitable[None]]) -> Exit:
        """Hand the streams of a process on, from when `begin` has returned until it has ended and all has been read."""
        waiting = asyncio.create_task(self.wait(), name="moorage wait")
        broken: asyncio.Task[None] | None = None
        try:
            fifos.read_into(streams.stdout, streams.stderr)
            await begin()
            broken = asyncio.create_task(fifos.broken(), name="moorage streams")
            if streams.stdin is not None and fifos.has_input:
                fifos.write_from(streams.stdin, self.close_stdin if streams.closes_input else _nothing)
            await asyncio.wait([waiting, broken], return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                broken.result()
            exit = await waiting
        finally:
            tasks = [task for task in (waiting, broken) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await fifos.drained()
        return exit

    async def run_captured(self, fifos: Fifos, input: bytes = b"") -> Output:
        """Run it with `input` and keep what it writes; deleted at the end, killed if the caller is cancelled."""
        stdout, stderr = bytearray(), bytearray()
        pieces = iter((input, b""))

        async def source() -> bytes:
            return next(pieces, b"")

        try:
            streams = Streams(collector(stdout), collector(stderr), source if input else None)
            exit = await self.run(fifos, streams)
        except asyncio.CancelledError:
            with contextlib.suppress(MoorageError):
                await self.kill(9)
                await self.wait()
                await self.delete()
            raise
        await self.delete()
        return Output(exit.status, bytes(stdout), bytes(stderr))


async def _nothing() -> None:
    """The input stays open for the next client."""
