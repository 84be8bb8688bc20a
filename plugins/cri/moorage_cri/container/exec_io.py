"""The output of a command that runs in a container: FIFOs to the shim, read in the daemon, up to a limit."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from moorage_api.runtime import Stdio

_CHUNK = 256 << 10


class Capture:
    """The standard output and error of one process. What exceeds `limit` bytes of either is read and dropped.

    Use: `open`, start the process with `stdio`, `release`, `drain`, and in any case `close` and `remove`.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._streams: list[_Stream] = []
        self.stdio = Stdio()

    def open(self) -> None:
        """Make the FIFOs and begin to read."""
        self._folder.mkdir(mode=0o700, parents=True)
        names = [str(self._folder / name) for name in ("stdout", "stderr")]
        for name in names:
            os.mkfifo(name, 0o600)
            self._streams.append(_Stream(name, self._limit))
        self.stdio = Stdio(stdout=names[0], stderr=names[1])

    def release(self) -> None:
        """The process has its streams: from now on they end when it and its children have closed them."""
        for stream in self._streams:
            stream.release()

    async def drain(self, seconds: float) -> None:
        """Wait until both streams have ended, or for `seconds`: a child may hold them for as long as it likes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for stream in self._streams:
                    await stream.ended.wait()

    @property
    def output(self) -> tuple[bytes, bytes]:
        """What was read of standard output and standard error so far."""
        first, second = (bytes(stream.data) for stream in self._streams)
        return first, second

    def close(self) -> None:
        """Stop reading. Closing twice is harmless."""
        for stream in self._streams:
            stream.close()

    def remove(self) -> None:
        """Remove the FIFOs with their folder, in memory (the state folder), so that this takes no time."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Stream:
    def __init__(self, path: str, limit: int) -> None:
        self.data = bytearray()
        self.ended = asyncio.Event()
        self._limit = limit
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # A FIFO without a writer reads as ended; until the shim has opened it, this one is the writer.
        self._keeper = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def release(self) -> None:
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    def close(self) -> None:
        self.release()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._fd)
            self.ended.set()
            return
        self.data += chunk[: max(0, self._limit - len(self.data))]
