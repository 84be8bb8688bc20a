"""A file that is read while another process writes it."""

from __future__ import annotations

import threading
from typing import BinaryIO


class Growth:
    """How many bytes of a file are there. Thread-safe."""

    def __init__(self, size: int = 0) -> None:
        self._size = size
        self._changed = threading.Condition()

    def grow(self, size: int) -> None:
        """`size` bytes are there now."""
        with self._changed:
            self._size = max(self._size, size)
            self._changed.notify_all()

    def beyond(self, offset: int) -> int:
        """How many bytes are there, as soon as there are more than `offset`. Waits for as long as it takes."""
        with self._changed:
            self._changed.wait_for(lambda: self._size > offset)
            return self._size


class GrowingFile:
    """Reads a file of `size` bytes in the end, and waits where a byte is not there yet. What decompressors ask of a file."""

    def __init__(self, file: BinaryIO, size: int, growth: Growth) -> None:
        self._file = file
        self._size = size
        self._growth = growth
        self._offset = 0
        self._there = 0

    def read(self, size: int = -1, /) -> bytes:
        """At least one byte and at most `size`, all that is there with -1; empty at the end of the file."""
        count = self._available()
        data = self._file.read(count if size < 0 else min(size, count))
        self._offset += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """As `read`, into `buffer`."""
        count = self._file.readinto(memoryview(buffer)[: self._available()])  # type: ignore[attr-defined]
        self._offset += count
        return int(count)

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, /) -> int:
        """Go to `offset`, counted from the beginning."""
        self._offset = self._file.seek(offset)
        return self._offset

    def tell(self) -> int:
        return self._offset

    def _available(self) -> int:
        if self._offset >= self._size:
            return 0
        if self._there <= self._offset:
            self._there = min(self._growth.beyond(self._offset), self._size)
        return self._there - self._offset
