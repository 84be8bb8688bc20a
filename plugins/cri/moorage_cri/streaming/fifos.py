"""FIFOs between the daemon and a shim: one process's streams, read and written by tasks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from moorage_api.runtime import Stdio

_CHUNK = 64 << 10
# Fewer turns between shim and daemon for a process that writes much; the most that an unprivileged user may have.
_PIPE_SIZE = 1 << 20


class FifoReader:
    """Reads what a shim writes. A FIFO without a writer reads as ended: until `release`, this end holds one."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._keeper = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._patience: float | None = None
        self._given_up = False
        self._waiter: asyncio.Future[None] | None = None
        with suppress(OSError):
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def release(self) -> None:
        """The shim has it open."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    def settle(self, seconds: float) -> None:
        """The process has ended: end when nothing has come for so long. Something may hold the stream for ever."""
        self._patience = seconds
        if self._waiter is not None:
            self._loop.call_later(seconds, self._give_up, self._waiter)

    async def read(self) -> bytes:
        """Some bytes; empty at the end."""
        while not self._given_up:
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:
                await self._wait()
        return b""

    def close(self) -> None:
        """Read no more; a shim that writes sees a broken pipe."""
        self.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._loop.add_reader(self._fd, _wake, waiter)
        if self._patience is not None:
            self._loop.call_later(self._patience, self._give_up, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            self._loop.remove_reader(self._fd)

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            self._given_up = True
            waiter.set_result(None)


class FifoWriter:
    """Writes what a shim reads. Held open by both sides, so that opening does not wait."""

    def __init__(self, path: str) -> None:
        self._keeper = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()

    def release(self) -> None:
        """The shim has it open."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    async def write(self, data: bytes) -> None:
        """All of it. `BrokenPipeError` when nobody reads any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._wait()

    def close(self) -> None:
        """Write no more."""
        self.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._loop.remove_writer(self._fd)


class Fifos:
    """The FIFOs of one process, in a folder of their own. Use: `open`, give `stdio` to a shim, `release`, and in any
    case `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stdin: FifoWriter | None = None
        self.outputs: dict[str, FifoReader] = {}
        self.stdio = Stdio()

    def open(self, *, stdin: bool, stdout: bool, stderr: bool, terminal: bool) -> None:
        """Make those that are wanted."""
        self._folder.mkdir(mode=0o700, parents=True)
        names = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        paths = {name: str(self._folder / name) for name, wanted in names.items() if wanted}
        for name, path in paths.items():
            os.mkfifo(path, 0o600)
            if name == "stdin":
                self.stdin = FifoWriter(path)
            else:
                self.outputs[name] = FifoReader(path)
        self.stdio = Stdio(**paths, terminal=terminal)

    def release(self) -> None:
        """The shim has opened them."""
        for each in (self.stdin, *self.outputs.values()):
            if each is not None:
                each.release()

    def close(self) -> None:
        """Close and remove them. Closing twice is harmless."""
        for each in (self.stdin, *self.outputs.values()):
            if each is not None:
                each.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
