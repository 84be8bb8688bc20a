"""What a file that is written in several places has so far, as its file system knows it: the rest are holes.

A file system tells holes from bytes block by block. So a block of which a part was written counts as there, with zeros in
place of the rest. Next to a hole, only whole chunks are relied on, and only those that do not have a zero there. After a power
cut the file system says what reached the disk; where it is wrong, the digest of the whole finds out.
"""

from __future__ import annotations

import errno
import os
import tempfile

CHUNK = 1 << 20
"""Bytes. Larger than the blocks of any file system, and all that a crash costs in each place."""

_ZERO = b"\0"

Ranges = list[tuple[int, int]]
"""Start and end (not included) of each, in order and apart."""


def keeps_holes(folder: str) -> bool:
    """Whether the file system of `folder` says where files have holes."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.seek(CHUNK)
        file.write(b"\1")
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0 and os.lseek(file.fileno(), 0, os.SEEK_DATA) == CHUNK


def begun(fd: int) -> int:
    """How many bytes a file has from its beginning on."""
    size = os.fstat(fd).st_size
    hole = os.lseek(fd, 0, os.SEEK_HOLE) if size else 0
    return size if hole >= size else _end(fd, hole)


def beyond(fd: int, total: int) -> Ranges:
    """Whole chunks that a file of `total` bytes in the end (0: not known) has after its first hole."""
    size = os.fstat(fd).st_size
    ranges: Ranges = []
    position = begun(fd)
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_HOLE)
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole up to the end
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        start = _start(fd, start)
        end = position if position == total else _end(fd, position)
        if start < end:
            ranges.append((start, end))
    return ranges


def _start(fd: int, data: int) -> int:
    """Where whole chunks begin, of what begins with the block at `data`."""
    return data + (-data % CHUNK or (0 if os.pread(fd, 1, data) != _ZERO else CHUNK))


def _end(fd: int, hole: int) -> int:
    """Where whole chunks end, of what ends with the block before `hole`."""
    return hole - (hole % CHUNK or (0 if os.pread(fd, 1, hole - 1) != _ZERO else CHUNK)) if hole else 0


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """The ranges with one more, joined to those that it touches."""
    joined: Ranges = []
    for known in sorted([*ranges, (start, end)]):
        if joined and known[0] <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], known[1]))
        else:
            joined.append(known)
    return joined
