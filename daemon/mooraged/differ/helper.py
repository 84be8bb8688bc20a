"""A process that makes small files for a worker, beside what the worker does: `python -m mooraged.differ.helper`.

Where a layer is of many small files, to make them takes longer than all else, and one thread of Python is all that can do it.
It is told what to make in batches: folders by descriptors, names without slashes, modes, times; the bytes are in memory that
both have. It looks nothing up, and decides nothing: what is not as expected is an error of the batch.
"""

from __future__ import annotations

import gc
import mmap
import os
import socket
import struct
import subprocess
import sys
from contextlib import suppress

import msgspec

BATCH_FILES = 128
BATCH_BYTES = 256 << 10
FOLDERS_MAX = 64
"""Descriptors in a batch; the kernel passes 253 at once."""
SMALL = 16 << 10
"""Bytes of a file that is made by a helper at most."""
MANY = 1000
"""Small files after which a helper is worth its start, where they are most of the archive: one in `DENSE` bytes of it."""
DENSE = 8 << 10
AHEAD = 3
"""Batches under way. When there are as many, the worker makes files itself."""
_SHARED = (AHEAD + 1) * BATCH_BYTES
"""A place for each batch under way, and for the one that is being filled: they are taken in turns."""
_COMMAND = (sys.executable, "-P", "-m", "mooraged.differ.helper")
_HEAD = struct.Struct("=II")
"""Bytes of the list of files, and where their bytes begin."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DONE, _FAILED = b"\0", b"\1"


class Refused(Exception):
    """The helper could not make what it was told to, or is dead. Which files of the last batches are there is not known."""


File = tuple[int, bytes, int, int, int]
"""Which of the batch's folders a file is in, its name, mode, time in nanoseconds, and size."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[File])


class Helper:
    """The process, as the worker sees it, for one layer: started when it is first needed. For one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._memory = -1
        self._shared = memoryview(bytearray())
        self._place = 0
        self._under_way = 0
        self._small = 0
        self._begin()

    def wants(self, size: int, offset: int) -> bool:
        """Whether a file of `size` bytes, which are at `offset` of the archive, should be offered. Called once for each."""
        if not 0 < size <= SMALL:
            return False
        self._small += 1
        return self._small > MANY and offset < self._small * DENSE

    def offer(self, folder: bytes, fd: int, name: bytes, mode: int, time: int, data: memoryview) -> bool:
        """Have a file made in the folder at the path `folder`, open as `fd`; False where the helper has enough to do.

        `Refused`, also for files that were offered before.
        """
        size = len(data)
        if len(self._files) == BATCH_FILES or self._size + size > BATCH_BYTES or len(self._fds) == FOLDERS_MAX:
            self._collect(wait=False)
            if self._under_way >= AHEAD:
                return False
            self._send()
        index = self._folders.get(folder)
        if index is None:
            if self._memory < 0:
                self._share()
            index = self._folders[folder] = len(self._fds)
            # The worker may close its own before the batch is sent.
            self._fds.append(os.dup(fd))
        self._files.append((index, name, mode, time, size))
        start = self._place + self._size
        self._shared[start : start + size] = data
        self._size += size
        return True

    def wait(self) -> None:
        """Return when all files that were offered are there. `Refused`."""
        if self._files:
            self._send()
        while self._under_way:
            self._collect(wait=True)

    def stop(self) -> None:
        """End the process. What was not waited for may be there or not. No other call may follow."""
        for fd in self._fds:
            os.close(fd)
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._memory >= 0:
            self._shared.release()
            os.close(self._memory)

    def _share(self) -> None:
        """Get the memory that the process will have, too."""
        self._memory = os.memfd_create("mooraged-differ")
        os.ftruncate(self._memory, _SHARED)
        self._shared = memoryview(mmap.mmap(self._memory, _SHARED))

    def _begin(self) -> None:
        """Begin a batch."""
        self._files: list[File] = []
        self._folders: dict[bytes, int] = {}
        self._fds: list[int] = []
        self._size = 0

    def _send(self) -> None:
        files = _encoder.encode(self._files)
        message = _HEAD.pack(len(files), self._place) + files
        try:
            channel = self._open()
            sent = socket.send_fds(channel, [message], self._fds)
            channel.sendall(memoryview(message)[sent:])
        except OSError as error:
            raise Refused(str(error)) from error
        self._under_way += 1
        for fd in self._fds:
            os.close(fd)
        self._place = (self._place + BATCH_BYTES) % _SHARED
        self._begin()

    def _collect(self, *, wait: bool) -> None:
        """Take the answers that are there, one at least with `wait`."""
        if not self._under_way or self._socket is None:
            return
        try:
            answers = self._socket.recv(AHEAD + 1, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise Refused(str(error)) from error
        if not answers or answers.strip(_DONE):
            raise Refused("a file could not be made" if answers else "the helper is dead")
        self._under_way -= len(answers)

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(_COMMAND, stdin=theirs.fileno(), stdout=self._memory)
        return self._socket


def main() -> None:
    """Make files until the worker closes the socket, which is standard input; the memory is standard output."""
    os.umask(0)
    gc.freeze()
    shared = memoryview(mmap.mmap(1, _SHARED, prot=mmap.PROT_READ))
    with socket.socket(fileno=os.dup(0)) as channel, suppress(ConnectionError):
        while (batch := _receive(channel)) is not None:
            files, start, folders = batch
            channel.sendall(_DONE if _make(files, shared[start:], folders) else _FAILED)


def _receive(channel: socket.socket) -> tuple[list[File], int, list[int]] | None:
    """A batch: its files, where their bytes are, one after the other, and its folders. None when the worker is gone."""
    head, fds, _, _ = socket.recv_fds(channel, _HEAD.size, FOLDERS_MAX)
    if len(head) < _HEAD.size:
        return None
    size, start = _HEAD.unpack(head)
    files = bytearray(size)
    there = 0
    while there < size:
        count = channel.recv_into(memoryview(files)[there:])
        if not count:
            return None
        there += count
    return _decoder.decode(files), start, fds


def _make(files: list[File], data: memoryview, folders: list[int]) -> bool:
    """Make the files; False at the first that cannot be."""
    start = 0
    try:
        for folder, name, mode, time, size in files:
            fd = os.open(name, _CREATE, mode, dir_fd=folders[folder])
            try:
                end = start + size
                if os.write(fd, data[start:end]) < size:
                    return False
                start = end
                os.utime(fd, ns=(time, time))
            finally:
                os.close(fd)
    except OSError:
        return False
    finally:
        for fd in folders:
            os.close(fd)
    return True


if __name__ == "__main__":
    main()
