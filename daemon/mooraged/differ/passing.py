"""A blob that is read once, from its beginning to its end, and then no more."""

from __future__ import annotations

import os

from mooraged.differ.compression import Readable

STEP = 8 << 20
"""Bytes that are read between two times that memory is given back."""


class Passing:
    """Reads `file`, and gives the memory back in which the kernel keeps what was read: the files of the layer, which are read
    again, find a place there. What is not on disk yet begins to be written.

    Memory that was in use a moment ago is quicker to be had, too: on virtual machines that return free memory to their host,
    a page of the host's costs five times a page of the guest's own.
    """

    def __init__(self, file: Readable, fd: int) -> None:
        self._file = file
        self._fd = fd
        self._passed = 0
        self._given_back = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._pass(len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._file.readinto(buffer)
        self._pass(count)
        return count

    def seek(self, offset: int, /) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._passed

    def readable(self) -> bool:
        return True

    def _pass(self, count: int) -> None:
        self._passed += count
        if self._passed - self._given_back >= STEP or not count:
            self._given_back = self._passed
            os.posix_fadvise(self._fd, 0, self._passed, os.POSIX_FADV_DONTNEED)
