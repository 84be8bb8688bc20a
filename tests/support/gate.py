"""A daemon whose system calls are decided by the test: to stop it at the very moment of one, or to let one fail."""

from __future__ import annotations

import array
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.daemon import Daemon

NUMBERS = {
    "x86_64": {"fsync": 74, "fdatasync": 75, "syncfs": 306, "write": 1, "pwrite64": 18, "renameat2": 316, "rename": 82},
    "aarch64": {"fsync": 82, "fdatasync": 83, "syncfs": 267, "write": 64, "pwrite64": 68, "renameat2": 276},
}
SYNCS = ("fsync", "fdatasync", "syncfs")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _RESPONSE = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1


def ungated() -> str:
    """Why system calls cannot be decided here; empty where they can."""
    if platform.machine() not in NUMBERS:
        return f"the numbers of its system calls are not known for {platform.machine()}"
    try:
        known = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except FileNotFoundError:
        return "the kernel has no seccomp"
    return "" if "user_notif" in known else "the kernel does not let others decide on system calls"


@dataclass(frozen=True)
class Stop:
    """A call that waits for a decision: of the thread `thread`, with the file behind its first argument."""

    name: str
    thread: int
    path: str


Decide = Callable[[Stop], int]
"""Returns 0 to let the call pass, or the number of the error that it is to fail with."""


class GatedDaemon(Daemon):
    """A daemon that asks `decide` about each of the system calls `calls`, its workers' too. `decide` is called in a thread
    of its own, one call at a time; it may be exchanged at any moment."""

    def __init__(self, calls: tuple[str, ...] = SYNCS, config: str = "", decide: Decide = lambda stop: 0) -> None:
        super().__init__(config)
        self.decide = decide
        known = NUMBERS[platform.machine()]
        self._names = {known[call]: call for call in calls if call in known}
        self._link = str(self.folder / "gate.sock")

    def command(self) -> list[str]:
        calls = ",".join(map(str, self._names))
        gated = Path(__file__).with_name("gated.py")
        return [sys.executable, "-P", str(gated), self._link, calls, *super().command()]

    def start(self) -> Self:
        with suppress(FileNotFoundError):
            os.unlink(self._link)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(self._link)
            server.listen(1)
            server.settimeout(30)
            # The daemon is ready only when its calls are answered.
            threading.Thread(target=self._serve, args=(server.dup(),), name="gate").start()
            return super().start()

    def kill_now(self) -> None:
        """`kill -9` without waiting for its end: for the thread that decides."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)

    def _serve(self, server: socket.socket) -> None:
        """Answer the calls of one daemon, to the end of the last process that came of it."""
        with server:
            connection, _ = server.accept()
        with connection:
            _, control, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
        (listener,) = array.array("i", control[0][2])
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while not poll.poll()[0][1] & select.POLLHUP:
                # A process that was killed meanwhile needs no answer.
                with suppress(FileNotFoundError):
                    self._answer(listener)
        finally:
            os.close(listener)

    def _answer(self, listener: int) -> None:
        notification = bytearray(_NOTIFICATION.size)
        fcntl.ioctl(listener, _RECEIVE, notification)
        id, thread, _, number, _, _, argument, *_ = _NOTIFICATION.unpack(notification)
        error = self.decide(Stop(self._names[number], thread, _path(thread, argument)))
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(id, 0, -error, 0 if error else _CONTINUE))


def _path(thread: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{thread}/fd/{fd}")
    except OSError:
        return ""
