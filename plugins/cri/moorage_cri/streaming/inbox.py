"""The bytes of one stream that came in and have not been taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LIMIT = 256 << 10
_LOOK_SECONDS = 1.0


class Inbox:
    """Between the task that reads a connection and the one that uses a stream of it. Holds little: who puts into a full
    one waits, and with it the whole connection.

    While nothing is read, nobody would see that the client has gone: `gone` is asked now and then instead. It knows of a
    reset at once; of an end behind bytes that were not read only when the client's kernel gives these up, in minutes.
    """

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone
        self._data = bytearray()
        self._ended = False
        self._unwanted = False
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Add bytes, when there is room. `ConnectionResetError` when the client went while there was none."""
        while len(self._data) >= _LIMIT and not self._unwanted:
            self._changed.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                if self._gone():
                    raise ConnectionResetError("the client is gone") from None
        if not self._unwanted:
            self._data += data
        self._changed.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._changed.set()

    def refuse(self) -> None:
        """Nobody will take any more: what comes is dropped."""
        self._unwanted = True
        self._data.clear()
        self._changed.set()

    async def get(self) -> bytes:
        """All that is there, as soon as there is something; empty at the end."""
        while not self._data and not self._ended and not self._unwanted:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._data)
        self._data.clear()
        self._changed.set()
        return data
