"""The keeper: the process that a shim is known by, and that does as little as a process can.

It is the parent of the containers, and holds their pipes and the shim's sockets while nothing happens. When something
does, it gets itself a worker, which has all the code, and hands everything over; when nothing has happened for a while,
the worker gives everything back, with its state as bytes, and ends. So a shim at rest costs what a process costs that
has done nothing since its fork. This module, and what it imports, is all the code that a keeper has: nothing above
Python's built-in modules.

Between the two is a seqpacket socket. A worker says `HELLO` first; then both ways go records: a `HEAD` with
descriptors, followed by its bytes in pieces. Down goes one `HANDED`, all that the shim has; then an `EXIT` for each process that
the keeper reaps, and a `SPAWNED` for each that it started. Up go requests to `SPAWN`, for what leaves orphans must be a
child of the keeper; and at the end `HANDED` for a rest, or `OVER`. If the worker ends in another way, the shim has died,
and the keeper ends too.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import posix
import select
import time
from _struct import Struct

from moorage_shim.libc import set_name
from moorage_shim.spawning import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage_shim.libc import Part

    Way = Callable[[int], int]
    """Gets a worker for the other end of a socket, and returns its pid if it is a child of the keeper, else 0."""

HELLO = b"hello"
HANDED, SPAWN, OVER = 1, 2, 3
HEAD = Struct("=HHII")
"""Which of the three, number of descriptors, bytes that follow, and exits: those that follow, or that the worker has seen."""
HELD = Struct("=HH")
"""The number that a descriptor is to have in a worker, and the poll events that end the rest; 0 for none. One for each
descriptor follows the head of `HANDED`."""
EXIT = Struct("=Biiq")
"""0, pid, status as wait(2) gives it, Unix nanoseconds."""
SPAWNED = Struct("=Bii")
"""1, pid, errno: in the order of the requests; the pid is 0 on an error."""
PIECE = 4 << 10
"""Bytes in one message."""
MAX_FDS = 250
"""Descriptors in one message (SCM_MAX_FD is 253)."""
NAME = b"moorage-shim"

_FAILED = 1
_PATIENCE = 5000
_PAUSE = 1.0
_FD = Struct("=i")
_RIGHTS = _socket.CMSG_SPACE(MAX_FDS * _FD.size)


class Keeper:
    """Alternates between rest and work. It begins with `state`, `held` descriptors as (descriptor, number in the worker,
    events), and the ways to get a worker, the best first; `code` is what it lets go of at rest (`pages`). One without a state is
    a spare: it ends with who may want it.
    """

    def __init__(self, ways: Sequence[Way], state: bytes, held: list[tuple[int, int, int]], code: list[Part]) -> None:
        self._ways = ways
        self._code = code
        self._state = state
        self._held = held
        self._exits: list[bytes] = []
        self._worker = 0
        self._quick: set[int] = set()
        self._wakeup, self._signal = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)

    def run(self) -> int:
        """Until the shim is over; returns the exit status."""
        _signal.signal(_signal.SIGCHLD, _ignore)
        _signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        while self._rest():
            channel = self._get_worker()
            while not self._hand_over(channel):
                channel.close()
                channel = self._get_worker()
            over = self._attend(channel)
            channel.close()
            if over >= 0:
                for pid in self._quick:
                    posix.kill(pid, _signal.SIGKILL)
                return over
        return 0

    def close(self) -> None:
        """Let go of the signals."""
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        posix.close(self._wakeup)
        posix.close(self._signal)

    def _rest(self) -> bool:
        """Until something happens to what is held, or a process ends. False for a spare that nobody wants any more."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for fd, _, events in self._held:
            if events:
                poll.register(fd, events)
        for part in self._code:
            part.let_go()
        while not self._exits:
            for fd, events in poll.poll():
                if fd != self._wakeup:
                    return bool(self._state) or not events & select.POLLHUP
                self._reap()
        return True

    def _get_worker(self) -> _socket.socket:
        """However long it takes: without one nothing goes on, but nothing is lost."""
        while True:
            for way in self._ways:
                ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
                try:
                    self._worker = way(theirs.fileno())
                except OSError:
                    self._worker = 0
                theirs.close()
                if self._greets(ours):
                    return ours
                ours.close()
                if self._worker:
                    posix.kill(self._worker, _signal.SIGKILL)
            time.sleep(_PAUSE)

    def _greets(self, channel: _socket.socket) -> bool:
        """A worker that comes too late finds its socket closed, and has nothing of the shim's yet."""
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while ready := poll.poll(_PATIENCE):
            for fd, _ in ready:
                if fd != self._wakeup:
                    return _receive(channel)[0] == HELLO
                self._reap()
        return False

    def _hand_over(self, channel: _socket.socket) -> bool:
        """False for a worker that has died before it had all; nothing is given up then."""
        if not self._state:
            set_name(NAME)
        head = HEAD.pack(HANDED, len(self._held), len(self._state), len(self._exits))
        fds = b""
        for fd, number, events in self._held:
            head += HELD.pack(number, events)
            fds += _FD.pack(fd)
        try:
            channel.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)] if fds else [])
            for start in range(0, len(self._state), PIECE):
                channel.send(self._state[start : start + PIECE])
            for message in self._exits:
                channel.send(message)
        except OSError:
            return False
        for fd, _, _ in self._held:
            posix.close(fd)
        self._held, self._state, self._exits = [], b"", []
        return True

    def _attend(self, channel: _socket.socket) -> int:
        """Serve the worker until it ends; returns the exit status when the shim is over, -1 for a rest."""
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wakeup:
                    told = len(self._exits)
                    self._reap()
                    for message in self._exits[told:]:
                        _tell(channel, message)
                    continue
                over = self._answer(channel)
                if over is not None:
                    return over

    def _answer(self, channel: _socket.socket) -> int | None:
        """One record of the worker's; as `_attend`, None to go on."""
        message, fds = _receive(channel)
        if not message:
            return _FAILED
        kind, _, size, exits = HEAD.unpack_from(message)
        if kind == OVER:
            return 0
        body = b""
        while len(body) < size:
            body += _receive(channel)[0]
        if kind == SPAWN:
            self._spawn(channel, body, fds)
            return None
        numbers = HELD.iter_unpack(message[HEAD.size :])
        self._held = [(fd, number, events) for fd, (number, events) in zip(fds, numbers, strict=True)]
        self._state = body
        # Told, and not seen any more: kept for the next worker.
        del self._exits[:exits]
        return -1

    def _spawn(self, channel: _socket.socket, request: bytes, fds: list[int]) -> None:
        """Its end can only be told after this."""
        pid = error = 0
        try:
            program = marshal.loads(request)
            pid = spawn(program, fds)
            if program[-1]:
                self._quick.add(pid)
        except OSError as caught:
            error = caught.errno or -1
        for fd in fds:
            posix.close(fd)
        _tell(channel, SPAWNED.pack(1, pid, error))

    def _reap(self) -> None:
        """Only when there is a signal to read, and there may be more than one child behind it."""
        posix.read(self._wakeup, 4096)
        pid, status = _next_end()
        while pid:
            if pid == self._worker:
                self._worker = 0
            else:
                self._quick.discard(pid)
                self._exits.append(EXIT.pack(0, pid, status, time.time_ns()))
            pid, status = _next_end()


def _next_end() -> tuple[int, int]:
    """The pid and status of a child that has ended; zeros without one."""
    try:
        return posix.waitpid(-1, posix.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _ignore(_: int, __: object) -> None:
    """The wakeup descriptor tells of the signal."""


def _tell(channel: _socket.socket, message: bytes) -> None:
    """A worker that is about to end need not hear it."""
    try:
        channel.send(message)
    except OSError:
        return


def _receive(channel: _socket.socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors with it; empty at the end.

    A worker that ends without having read all that it was told leaves an error that comes before its last words.
    """
    try:
        message, rights, _, _ = channel.recvmsg(PIECE, _RIGHTS, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        message, rights, _, _ = channel.recvmsg(PIECE, _RIGHTS, _socket.MSG_CMSG_CLOEXEC)
    return message, [fd for _, _, data in rights for (fd,) in _FD.iter_unpack(data)]
