"""A blob on its way: what extracts it follows the bytes as they come."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moorage_api.content import Writer, file_of

SOON = 3.0
"""Seconds. An extraction takes a place of which there are few: it begins when the rest of the blob will take no longer,
as far as can be told."""
STALLED = 5.0
"""Seconds without a new byte after which an extraction gives its place to others, and begins again when all is there."""


class Arrival:
    """How far one blob has come. Its bytes are not verified before its fetch has ended well.

    `opened` and `advance` are called on the event loop, the rest in any thread.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._told: Callable[[int], None] | None = None
        self._grown = asyncio.Event()
        self._fd = -1
        self._there = 0
        self._begun_with = 0
        self._begun_at = self._grown_at = clock()
        self.torn = False
        """True once bytes were taken back: whoever followed has read what does not count any more."""

    @property
    def path(self) -> Path:
        """The file that grows, by a descriptor: the commit renames it. Only to be asked once `soon` has returned true."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def opened(self, writer: Writer) -> None:
        """The fetch has begun, into this ingest. Until `close`, its file is held open."""
        file = file_of(writer)
        if file is not None and self._fd < 0:
            self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._begun_with = writer.status().offset
        self._begun_at = self._clock()

    def advance(self, there: int) -> None:
        """`there` bytes have come; fewer than before where it has to begin again."""
        with self._lock:
            self.torn = self.torn or there < self._there
            self._there = there
            self._grown_at = self._clock()
            if self._told is not None and not self.torn:
                self._told(there)
        self._grown.set()

    async def soon(self, fetching: asyncio.Future[None]) -> bool:
        """Wait until the rest will come within `SOON` (true), or the fetch has ended (false)."""
        while not fetching.done():
            if self._is_near():
                return True
            self._grown.clear()
            grown = asyncio.create_task(self._grown.wait(), name="more of a blob")
            waiting: list[asyncio.Future[Any]] = [fetching, grown]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                grown.cancel()
        return False

    def close(self) -> None:
        """Let go of the file. Nobody may follow any more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def stalled(self) -> bool:
        """Whether nothing has come for a while, though there is more to come."""
        return self._there < self._size and self._clock() - self._grown_at > STALLED

    def follow(self, told: Callable[[int], None]) -> None:
        """See `moorage_api.differ.Arriving`."""
        with self._lock:
            self._told = told
            if not self.torn:
                told(self._there)

    def unfollow(self) -> None:
        """See `moorage_api.differ.Arriving`."""
        with self._lock:
            self._told = None

    def _is_near(self) -> bool:
        come = self._there - self._begun_with
        if self._fd < 0 or come <= 0 or self.torn:
            return False
        return (self._clock() - self._begun_at) / come * (self._size - self._there) < SOON
