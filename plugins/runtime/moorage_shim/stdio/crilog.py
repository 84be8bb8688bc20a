"""The log format of the Kubernetes CRI, written in bulk (kubernetes/design-proposals, kubelet-cri-logging).

    2016-10-06T00:17:09.669794202Z stdout F a whole line
    2016-10-06T00:17:09.669794202Z stdout P a piece of a line longer than 16 KiB

A time is taken once a read, and the lines of one read are joined by one `replace`: a time a line would cost most of
what the shim can do.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound, ResourceExhausted
from moorage_shim import log

MAX_LINE = 16 << 10
"""Bytes of a line, without its newline, that one entry of the log holds."""

_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Formatter:
    """Turns a stream's bytes into entries. Holds the last line as long as it has no end and is not too long."""

    __slots__ = ("_rest", "_stream")

    def __init__(self, stream: str) -> None:
        self._stream = stream.encode()
        self._rest = b""

    def feed(self, data: bytes, at: bytes) -> list[bytes]:
        """The entries that `data` completes, as pieces to write in order; `at` is the time, as `timestamp` gives it."""
        if self._rest:
            data = self._rest + data
        full = b"%b %b F " % (at, self._stream)
        separator = b"\n" + full
        pieces: list[bytes] = []
        position, length = 0, len(data)
        while position < length:
            # A window one byte longer than a line may be: lines that end in it are whole, one that does not is too long.
            newline = data.rfind(b"\n", position, position + MAX_LINE + 1)
            if newline >= 0:
                pieces += (full, data[position:newline].replace(b"\n", separator), b"\n")
                position = newline + 1
            elif length - position > MAX_LINE:
                pieces += (b"%b %b P " % (at, self._stream), data[position : position + MAX_LINE], b"\n")
                position += MAX_LINE
            else:
                break
        self._rest = data[position:]
        return pieces

    def finish(self, at: bytes) -> list[bytes]:
        """The entry of a last line without an end, marked as a piece."""
        rest, self._rest = self._rest, b""
        return [b"%b %b P " % (at, self._stream), rest, b"\n"] if rest else []


class Clock:
    """Times as the log has them: RFC 3339 with nine digits, UTC. The part before the second is kept between calls."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def timestamp(self) -> bytes:
        """Now."""
        second, nanosecond = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%09dZ" % (self._prefix, nanosecond)


class LogFile:
    """One log file, which several streams may share. Writing never fails: what the disk does not take is counted.

    The file's folder must exist, and its last component must not be a link: the path comes from a client.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.dropped = 0
        self.clock = Clock()
        self._fd = _open(path)
        self._torn = False
        self._users = 0

    def use(self) -> LogFile:
        """Count one more stream that writes here; `close` counts it off."""
        self._users += 1
        return self

    def write(self, pieces: list[bytes]) -> None:
        """Append entries. After a failure the next entry starts on a new line, whatever part was written."""
        if not pieces:
            return
        data = b"".join(pieces)
        if self._torn:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
            self._torn = False
        except OSError as error:
            self._torn = self._torn or written > 0
            self._drop(len(data) - written, error)

    def reopen(self) -> None:
        """Write to a new file at the same path from the next entry on; on an error the old one stays in use. Nothing
        when the streams have ended."""
        if self._fd < 0:
            return
        fd = _open(self.path)
        os.close(self._fd)
        self._fd = fd
        self._torn = False

    def is_open_at(self, status: os.stat_result) -> bool:
        """Whether the file that `status` is of is the one that is written to."""
        own = os.fstat(self._fd)
        return (own.st_dev, own.st_ino) == (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Close the file when its last stream ends."""
        self._users -= 1
        if self._users <= 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _drop(self, count: int, error: OSError) -> None:
        if not self.dropped:
            log.warning(f"log {self.path}: {error.strerror}: output is being dropped")
        self.dropped += count


def _open(path: str) -> int:
    """Open for appending; without the wait that a FIFO of that name would bring."""
    if not path.startswith("/"):
        raise InvalidArgument(f"log path {path!r} is not absolute")
    try:
        fd = os.open(path, _FLAGS | os.O_NONBLOCK, _MODE)
    except FileNotFoundError as error:
        raise NotFound(f"log {path}: its folder does not exist") from error
    except OSError as error:
        raise _open_error(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FailedPrecondition(f"log {path} is not a regular file")
    return fd


def _open_error(path: str, error: OSError) -> MoorageError:
    kind = ResourceExhausted if error.errno in (errno.ENOSPC, errno.EDQUOT) else FailedPrecondition
    return kind(f"log {path}: {error.strerror}")
