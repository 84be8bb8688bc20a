"""The keeper: the process that a shim is known by, and that does as little as a process can.

It is the parent of the containers, and holds their pipes and the shim's sockets while nothing happens. When something
does, it forks a worker, which has all the code and takes everything over; when nothing has happened for a while, the
worker gives everything back, with its state as bytes, and ends. So a shim at rest costs what a process costs that has
done nothing since its fork: all that Python's reference counts make private to a working process goes with the worker.

Between the two is a seqpacket socket. Down go the ends of processes that the keeper reaps, each an `EXIT`. Up goes one
`REST` with the descriptors, then the state in pieces. If the worker ends in another way, the keeper ends as it did: the
shim is over, or has died.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from moorage_shim.rawfork import fork

EXIT = struct.Struct("=iiq")
"""pid, status as wait(2) gives it, Unix nanoseconds."""
REST = struct.Struct("=IIH")
"""Exits that the worker has seen, bytes of state, number of descriptors; a `HELD` for each follows."""
HELD = struct.Struct("=HH")
"""The number that a descriptor is to have again, and the poll events that end the rest; 0 for none."""
PIECE = 4 << 10
"""Bytes of state in one message."""
MAX_FDS = 250
"""Descriptors in one message (SCM_MAX_FD is 253)."""
FIRST_OWN = 700
"""The keeper's own descriptors are from here on; a worker that has any of these does not rest."""

# Plain numbers, the bare type and call: Python's own layer over them would be most of what the keeper runs, and write to.
_FAMILY = int(socket.AF_UNIX)
_KIND = int(socket.SOCK_SEQPACKET)
_Socket = _socket.socket
_socketpair = _socket.socketpair
_set_handler = _signal.signal
_FD = struct.Struct("=i")
_RIGHTS_MAX = socket.CMSG_SPACE(MAX_FDS * _FD.size)
_MESSAGE_MAX = max(PIECE, REST.size + MAX_FDS * HELD.size)

Exits = list[tuple[int, int, int]]
Work = Callable[[socket.socket, bytes, Exits], NoReturn]


class Keeper:
    """Alternates between work and rest. `work` is run in a worker, and never returns: it gets its end of the socket, the
    state of the worker before (empty for the first), and the exits since. The first also gets the descriptors `handed`
    over, which the keeper closes then."""

    def __init__(self, work: Work, handed: Sequence[int]) -> None:
        self._work = work
        self._held = list(handed)
        self._events: dict[int, int] = {}
        self._state = b""
        self._exits: Exits = []
        self._worker = 0
        self._status = 0
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup, self._signal = _move(read), _move(write)

    def run(self) -> int:
        """Returns the exit status of the last worker, as wait(2) gives it."""
        _set_handler(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        while self._attend(self._start_worker()):
            self._wait()
        return self._status

    def close(self) -> None:
        """Let go of the signals."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wakeup)
        os.close(self._signal)

    def _start_worker(self) -> int:
        ours, theirs = _socketpair(_FAMILY, _KIND)
        self._worker = fork()
        if self._worker == 0:
            signal.set_wakeup_fd(-1)
            ours.close()
            os.close(self._wakeup)
            os.close(self._signal)
            self._work(socket.socket(fileno=theirs.detach()), self._state, self._exits)
        theirs.close()
        for fd in self._held:
            os.close(fd)
        self._held, self._events, self._state, self._exits = [], {}, b"", []
        return _move(ours.detach())

    def _attend(self, fd: int) -> bool:
        """Tell the worker of exits until it rests; False when it has ended."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        told = 0
        channel = _Socket(fileno=fd)
        while True:
            ready = dict(poll.poll())
            if self._wakeup in ready:
                self._reap()
                told += self._tell(channel, told)
            if fd in ready:
                alive = self._take_over(channel)
                channel.close()
                return alive

    def _tell(self, channel: _Socket, told: int) -> int:
        """Send the exits that have not been sent; kept all the same, for a worker may rest before it reads them."""
        fresh = self._exits[told:]
        for exit in fresh:
            try:
                channel.send(EXIT.pack(*exit))
            except OSError:
                break
        return len(fresh)

    def _take_over(self, channel: _Socket) -> bool:
        message, fds = _receive(channel)
        if not message:
            if self._worker:
                self._status = os.waitpid(self._worker, 0)[1]
            return False
        seen, size, count = REST.unpack_from(message)
        held = [HELD.unpack_from(message, REST.size + HELD.size * i) for i in range(count)]
        _place(fds, [number for number, _ in held])
        # The standard streams are the keeper's own as well, and stay.
        self._held = [number for number, _ in held if number > 2]
        self._events = {number: events for number, events in held if events}
        state = b""
        while len(state) < size:
            state += _receive(channel)[0]
        self._state = state
        del self._exits[:seen]
        return True

    def _wait(self) -> None:
        """Rest until something happens to what is held, or a process ends that is not the worker."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for fd, events in self._events.items():
            poll.register(fd, events)
        while not self._exits:
            ready = dict(poll.poll())
            if self._wakeup in ready:
                self._reap()
            if len(ready) > (self._wakeup in ready):
                return

    def _reap(self) -> None:
        """Only when there is a signal to read, and there may be more than one child behind it."""
        os.read(self._wakeup, 4096)
        pid, status = _next_end()
        while pid:
            if pid == self._worker:
                self._worker, self._status = 0, status
            else:
                self._exits.append((pid, status, time.time_ns()))
            pid, status = _next_end()


def _next_end() -> tuple[int, int]:
    """The pid and status of a child that has ended; zeros without one."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _ignore(_: int, __: object) -> None:
    """The wakeup descriptor tells of the signal."""


def _move(fd: int) -> int:
    """Give a descriptor a number among the keeper's own."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN)
    os.close(fd)
    return moved


def _place(fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Give descriptors the numbers that they had in the worker; moved away first, as one may stand in another's place."""
    moved = [_move(fd) for fd in fds]
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number, inheritable=False)
        os.close(fd)


def _receive(channel: _Socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors with it; empty at the end.

    A worker that ends without having read all that it was told leaves an error that comes before its last words.
    """
    try:
        message, rights, _, _ = channel.recvmsg(_MESSAGE_MAX, _RIGHTS_MAX)
    except ConnectionResetError:
        message, rights, _, _ = channel.recvmsg(_MESSAGE_MAX, _RIGHTS_MAX)
    return message, [fd for _, _, data in rights for (fd,) in _FD.iter_unpack(data)]
