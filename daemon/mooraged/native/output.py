"""What a short command writes: read through a FIFO, the beginning kept, the rest thrown away."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

_KEPT = 4096
_CHUNK = 65536


class Output:
    """A FIFO at `path`, in place of an earlier one. It is read while the context lasts, so its writer never waits."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._data = bytearray()
        self._fd = -1

    def text(self) -> str:
        """What has come so far, at most 4096 bytes."""
        self._read()
        return self._data.decode(errors="replace")

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._fd, _CHUNK):
                self._data += data[: _KEPT - len(self._data)]

    async def __aenter__(self) -> Self:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        os.mkfifo(self.path, 0o600)
        # A writing end of our own: the end of a writer is not the end of the FIFO.
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(self.path)
