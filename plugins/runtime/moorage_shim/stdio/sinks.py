"""Where output goes: FIFOs, files, logs in the CRI's format, the pipe of a process, or nowhere."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import stat
import termios
from contextlib import suppress
from typing import Protocol

from moorage_api.errors import FailedPrecondition, NotFound
from moorage_shim import log
from moorage_shim.loop import Loop
from moorage_shim.processes import poll_now
from moorage_shim.stdio.crilog import Formatter, LogFile

_LINGER_PAUSE = 0.1


class Sink(Protocol):
    """Takes the bytes of one stream."""

    @property
    def fd(self) -> int:
        """The descriptor that becomes writable when `write` took less than it was given; -1 where that can't be."""

    @property
    def unclaimed(self) -> bool:
        """Whether the stream has ended, and nobody has come for what is left of it."""

    def write(self, data: bytes) -> int:
        """Take what is possible now; returns how many bytes. `BrokenPipeError` when nobody will ever take more."""

    def finish(self) -> None:
        """The stream has ended: flush, and let the reader see the end."""

    def close(self) -> None:
        """Release everything now; fine after `finish`."""


class NullSink:
    """Takes all, keeps nothing."""

    fd = -1
    unclaimed = False

    def write(self, data: bytes) -> int:
        return len(data)

    def finish(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to release."""


class CriSink:
    """One stream of a CRI log."""

    fd = -1
    unclaimed = False

    def __init__(self, file: LogFile, stream: str) -> None:
        self._file = file.use()
        self._formatter = Formatter(stream)
        self._open = True

    def write(self, data: bytes) -> int:
        self._file.write(self._formatter.feed(data, self._file.clock.timestamp()))
        return len(data)

    def finish(self) -> None:
        if self._open:
            self._open = False
            self._file.write(self._formatter.finish(self._file.clock.timestamp()))
            self._file.close()

    def close(self) -> None:
        self.finish()


class FileSink:
    """A file that is appended to. Bytes that the disk does not take are dropped, which is logged once.

    Streams that share it each call `use` first, and `finish` or `close` once.
    """

    fd = -1
    unclaimed = False

    def __init__(self, path: str) -> None:
        self._users = 0
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)

    def use(self) -> FileSink:
        """Count one more stream that writes here."""
        self._users += 1
        return self

    def write(self, data: bytes) -> int:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            log.once(f"{self._path}: {error.strerror}: output is being dropped")
        return len(data)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self._users -= 1
        if self._users <= 0 and self._file >= 0:
            os.close(self._file)
            self._file = -1


class PipeSink:
    """The writing end of a pipe or a terminal; the reader may go, which ends the stream. Owns the descriptor."""

    unclaimed = False

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, data: bytes) -> int:
        return write_some(self._fd, data)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FifoSink:
    """A FIFO of the client's. Its reader may leave and another come: the shim holds a reading end too, so that the
    container never sees a broken pipe; it waits, as it does for a slow reader.

    At the end the reading end is given up first. When output is left that nobody has read, the FIFO stays open until
    it is read or the process is deleted; otherwise it is closed, and a reader sees the end.
    """

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._keeper = open_fifo(path, os.O_RDONLY)
        self._fd = open_fifo(path, os.O_WRONLY)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def unclaimed(self) -> bool:
        return self._fd >= 0 > self._keeper

    def write(self, data: bytes) -> int:
        return write_some(self._fd, data)

    def finish(self) -> None:
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1
            self._close_when_read()

    def close(self) -> None:
        for fd in (self._keeper, self._fd):
            if fd >= 0:
                os.close(fd)
        self._keeper = self._fd = -1

    def _close_when_read(self) -> None:
        if self._fd < 0:
            return
        has_reader = not poll_now(self._fd, 0) & select.POLLERR
        if has_reader or not unread(self._fd):
            self.close()
        else:
            self._loop.later(_LINGER_PAUSE, self._close_when_read)


class FifoSource:
    """A FIFO that is a process's standard input. Its end is seen only after `end`: clients come and go before."""

    def __init__(self, path: str) -> None:
        self.fd = open_fifo(path, os.O_RDONLY)
        self._keeper = open_fifo(path, os.O_WRONLY)

    def end(self) -> None:
        """Stop holding a writing end: when the client's is closed too, the stream is at its end."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1


def write_some(fd: int, data: bytes) -> int:
    """A write to a non-blocking descriptor: 0 when it is full. A terminal without a process is a broken pipe."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise BrokenPipeError(error.errno, error.strerror) from error


def unread(fd: int) -> int:
    """Bytes in a pipe that nobody has read (FIONREAD)."""
    count = array.array("i", [0])
    with suppress(OSError):
        fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def open_fifo(path: str, flags: int) -> int:
    """One end of a FIFO, without waiting for the other. `NotFound`; `FailedPrecondition` for what is no FIFO, or to be
    written while nobody reads."""
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        kind = NotFound if error.errno == errno.ENOENT else FailedPrecondition
        raise kind(f"standard stream {path}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise FailedPrecondition(f"standard stream {path} is not a FIFO; for a file use file:// or cri://")
    return fd
