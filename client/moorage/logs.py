"""Log files in the format of the Kubernetes CRI: one record a line, `TIME STREAM TAG TEXT`, TAG `F` or `P`.

`P` marks a piece of a longer line: the next record of the same stream continues it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from moorage.times import parse_time
from moorage_api.errors import InvalidArgument, NotFound

_CHUNK: Final = 1 << 18
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `time` is as it stands in the file (RFC 3339, nanoseconds); `text` has no line feed; a `partial` one
    is continued by the next of its stream."""

    time: str
    stream: str
    partial: bool
    text: bytes

    @property
    def nanoseconds(self) -> int:
        """The time as Unix time in nanoseconds."""
        return parse_time(self.time)

    @property
    def output(self) -> bytes:
        """What the container wrote."""
        return self.text if self.partial else self.text + b"\n"


def parse_record(line: bytes) -> Record:
    """Read one line without its line feed. `InvalidArgument` for what is no record."""
    fields = line.split(b" ", 3)
    if len(fields) != 4 or fields[1] not in (b"stdout", b"stderr"):
        raise InvalidArgument(f"not a record of a CRI log: {line[:80]!r}")
    time, stream, tags, text = fields
    return Record(time.decode("ascii", "replace"), stream.decode(), tags.split(b":")[0] == b"P", text)


class LogFile:
    """A log that is read to its present end, again and again, over rotation: when the path names another file, the old
    one is read to its end first."""

    def __init__(self, path: str) -> None:
        """`NotFound` where there is no such file."""
        self._path = path
        self._rest = b""
        self._fd = self._open()

    def seek_tail(self, count: int) -> None:
        """Go to the last `count` lines (pieces of a line count as one)."""
        os.lseek(self._fd, _tail_offset(self._fd, count), os.SEEK_SET)

    def read(self) -> Iterator[Record]:
        """The records that are complete by now. A line that is no record is passed over: the log of a crashed machine
        may hold one."""
        while True:
            while data := os.read(self._fd, _CHUNK):
                yield from self._records(data)
            if not self._rotated():
                return
            yield from self._switch()

    def close(self) -> None:
        os.close(self._fd)

    def _records(self, data: bytes) -> Iterator[Record]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            try:
                yield parse_record(line)
            except InvalidArgument:
                continue

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"there is no log at {self._path}") from None

    def _rotated(self) -> bool:
        """Whether the path names another file by now. While it names none, the old one may still grow."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _switch(self) -> Iterator[Record]:
        """The last records of the old file, and on to the new one. The writer opened the new one after its last write
        to the old, so what is read now is all."""
        while data := os.read(self._fd, _CHUNK):
            yield from self._records(data)
        fresh = self._open()
        os.close(self._fd)
        self._fd, self._rest = fresh, b""


def read(path: str, *, tail: int | None = None, since: int = 0) -> Iterator[Record]:
    """The records that are there: the last `tail` lines, those from `since` (Unix nanoseconds) on. `NotFound`."""
    log = LogFile(path)
    try:
        if tail is not None:
            log.seek_tail(tail)
        yield from _from(log.read(), since)
    finally:
        log.close()


async def follow(path: str, ended: asyncio.Event, *, tail: int | None = None, since: int = 0) -> AsyncIterator[Record]:
    """As `read`, then whatever is added, until `ended` is set and the file has been read to its end."""
    log = LogFile(path)
    try:
        if tail is not None:
            log.seek_tail(tail)
        while True:
            last = ended.is_set()
            for record in _from(log.read(), since):
                yield record
            if last:
                return
            try:
                await asyncio.wait_for(ended.wait(), _POLL_SECONDS)
            except TimeoutError:
                continue
    finally:
        log.close()


def _from(records: Iterator[Record], since: int) -> Iterator[Record]:
    return (record for record in records if record.nanoseconds >= since) if since else records


def _tail_offset(fd: int, count: int) -> int:
    """Where the last `count` lines begin: behind the full record that ends the line before them. Pieces at the end of
    the file are a line that has no end yet."""
    start = os.fstat(fd).st_size
    if count == 0:
        return start
    head = b""
    seen = -1
    while start > 0:
        size = min(start, _CHUNK)
        start -= size
        block = os.pread(fd, size, start) + head
        # The first line of a block may have begun before it: it waits for the block before.
        cut = block.find(b"\n") + 1 if start else 0
        if start and not cut:
            head = block
            continue
        head, end = block[:cut], start + len(block)
        *lines, unfinished = block[cut:].split(b"\n")
        end -= len(unfinished)
        for line in reversed(lines):
            full = line.split(b" ", 3)[2:3] == [b"F"]
            if full and seen == count:
                return end
            if full or seen < 0:
                seen = max(seen, 0) + 1
            end -= len(line) + 1
    return 0
