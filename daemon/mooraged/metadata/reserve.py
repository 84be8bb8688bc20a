"""Room for the last writes: without it, a daemon on a full disk could not even note that something is to be removed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

SIZE = 4 << 20
"""Bytes; a transaction that removes the largest image takes a few hundred thousand."""
_PLENTY = 8
"""How many times its size must be free before the reserve is taken again."""


class Reserve:
    """A file beside the database, given up when the disk is full, and made again when there is plenty of room."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve"
        self.refill()

    def release(self) -> bool:
        """Give the room free; False where that was done before."""
        try:
            os.unlink(self._path)
        except OSError:
            return False
        _log.warning("the disk is full: %d bytes that were kept for this are free now", SIZE)
        return True

    def refill(self) -> None:
        """Make the file if it is not there, as soon as that takes nobody's room. A failure is as good as no room."""
        if self._path.exists():
            return
        try:
            found = os.statvfs(self._path.parent)
            if found.f_bavail * found.f_frsize < _PLENTY * SIZE:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            finally:
                os.close(fd)
        except OSError as error:
            _log.debug("no room is kept for a full disk: %s", error)
