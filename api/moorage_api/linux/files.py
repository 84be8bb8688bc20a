"""Bytes into files."""

from __future__ import annotations

import os

PIECE = 64 << 10
"""Bytes that are given to the kernel at once.

It keeps them in folios as large as what it is given (ext4 since Linux 6.16, XFS): large ones must be found first, and are no
memory that was in use a moment ago, which is in the caches of the processor, and on virtual machines need not be had of the
host. In pieces of 64 KiB a layer's files are written in two thirds of the time that they take at 1 MiB. And where the kernel
is not preempted within a call, nobody waits for long.
"""


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` from byte `offset` of the file on. `OSError`: then a part may have been written."""
    view = memoryview(data).cast("B")
    start, end = 0, len(view)
    while start < end:
        start += os.pwrite(fd, view[start : start + PIECE], offset + start)
