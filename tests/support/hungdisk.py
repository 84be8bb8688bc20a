"""File systems that hang, as those of a dead server or a broken disk do: whoever touches them waits."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moorage_api.linux import syscalls

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_REQUEST = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
# What is answered of the protocol (linux/fuse.h): version 7.12 has the longer attributes, and an INIT of 24 bytes.
_GETATTR, _STATFS, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS = 3, 17, 26, 27, 28, 29, 34
_VERSION = (7, 12)


class HungFolder:
    """An empty folder in user space (FUSE) at `path`. From `hang` on, nobody who touches it gets an answer until the block
    is left: then all who wait get an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hung = threading.Event()
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        syscalls.mount("hung", str(path), "fuse", 0, options)
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()

    def hang(self) -> None:
        """Answer nobody any more. What was answered is not remembered by the kernel, so the next look waits."""
        self._hung.set()

    def close(self) -> None:
        """Unmount it. Whoever still waits gets an error."""
        subprocess.run(["umount", "--lazy", "--force", self.path], check=False, capture_output=True)
        self._hung.set()
        os.close(self._device)

    def _serve(self) -> None:
        while not self._hung.is_set():
            try:
                data = os.read(self._device, 1 << 17)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.EBADF):
                    return
                raise
            _, opcode, unique, *_ = _REQUEST.unpack_from(data)
            if self._hung.is_set():
                return
            body = self._answer(opcode)
            status = -errno.ENOSYS if body is None else 0
            body = body or b""
            os.write(self._device, _ANSWER.pack(_ANSWER.size + len(body), status, unique) + body)

    def _answer(self, opcode: int) -> bytes | None:
        attributes = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
        answers = {
            _INIT: struct.pack("<IIIIHHI", *_VERSION, 0, 0, 0, 0, 4096),
            _GETATTR: struct.pack("<QII", 0, 0, 0) + attributes,
            _STATFS: bytes(80),
            _OPENDIR: bytes(16),
            _READDIR: b"",
            _RELEASEDIR: b"",
            _ACCESS: b"",
        }
        return answers.get(opcode)


@contextmanager
def hung_folder(path: Path) -> Iterator[HungFolder]:
    """Make the folder if it is not there, and mount over it."""
    path.mkdir(parents=True, exist_ok=True)
    folder = HungFolder(path)
    try:
        yield folder
    finally:
        folder.close()


@contextmanager
def frozen_disk(folder: Path) -> Iterator[None]:
    """Have every write to the file system at `folder` wait for the end of the block (ioctl_fifreeze(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, _FITHAW, 0)
    finally:
        os.close(fd)
