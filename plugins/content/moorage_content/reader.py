"""Reading a blob."""

from __future__ import annotations

import os
from pathlib import Path

from moorage_api.closing import Closing
from moorage_api.errors import FailedPrecondition, InvalidArgument, OutOfRange
from moorage_content.oserrors import translating


class LocalReader(Closing):
    """A blob's open file. Reading from several threads is fine; closing is for the last of them."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        return self._size

    @property
    def path(self) -> Path:
        return Path(self._path)

    def pread(self, length: int, offset: int) -> bytes:
        if self._fd < 0:
            raise FailedPrecondition(f"reader of {self._path} is closed")
        if offset < 0 or length < 0:
            raise InvalidArgument(f"negative length {length} or offset {offset}")
        if offset > self._size:
            raise OutOfRange(f"offset {offset} is beyond the end of {self._path}, which has {self._size} bytes")
        with translating(f"read {self._path}"):
            return os.pread(self._fd, length, offset)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
