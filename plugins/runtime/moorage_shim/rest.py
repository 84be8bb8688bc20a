"""How a worker rests: its state as bytes, its descriptors as rights, both to the keeper; and how the next one goes on.

The state is a pickle of the shim without what a process makes for itself (the loop, the reaper …), which the next worker
puts in its place. Descriptors are numbers in it, and have the same numbers again. Coroutines are not kept: a loop rests
only when all that they wait for is the end of a process or of a sandbox, and those are begun anew.
"""

from __future__ import annotations

import fcntl
import io
import marshal
import os
import pickle
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from moorage_api.errors import Internal
from moorage_shim import scratch, sealed
from moorage_shim.keeper import EXIT, HANDED, HEAD, HELD, MAX_FDS, OVER, PIECE, SPAWN, SPAWNED
from moorage_shim.loop import READ, Future, Loop
from moorage_shim.processes import Child, Ended, Reaper, exit_status
from moorage_shim.spawning import Program

FIRST_OWN = 700
"""A worker's socket to its keeper is from here on; one that has any other descriptors here does not rest."""

_STATE_MAX = 4 << 20
_MOVED = 800
# A shim that is woken soon after its rest waits longer for the next one: rests shorter than this double its patience.
_SHORT = 10.0
_PATIENCE = (0.3, 30.0)


@dataclass(frozen=True, slots=True)
class Handed:
    """What a worker gets: the state of the one before, empty for the first, and the ends of processes since. Its
    descriptors are in their places."""

    state: bytes
    exits: Sequence[bytes]


def receive(channel: socket.socket) -> Handed:
    """Take over from the keeper."""
    head, fds, _, _ = socket.recv_fds(channel, PIECE, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    if not head:
        _orphaned()
    _, _, size, exits = HEAD.unpack_from(head)
    _place(fds, [number for number, _ in HELD.iter_unpack(head[HEAD.size :])])
    state = b""
    while len(state) < size:
        state += channel.recv(PIECE) or _orphaned()
    return Handed(state, [channel.recv(EXIT.size) or _orphaned() for _ in range(exits)])


def hand_over(channel: socket.socket, state: bytes, held: Mapping[int, int], seen: int = 0) -> NoReturn:
    """Give the keeper the state, and the descriptors with the events that end the rest; and end. `seen` exits have been
    seen of those that it told."""
    head = HEAD.pack(HANDED, len(held), len(state), seen)
    head += b"".join(HELD.pack(fd, events) for fd, events in held.items())
    channel.setblocking(True)
    socket.send_fds(channel, [head], list(held))
    for start in range(0, len(state), PIECE):
        channel.send(state[start : start + PIECE])
    os._exit(0)


class KeeperLink:
    """The worker's end of the socket to its keeper."""

    def __init__(self, channel: socket.socket, loop: Loop, reaper: Reaper) -> None:
        self._channel = channel
        self._loop = loop
        self._reaper = reaper
        self._seen = 0
        self._starting: deque[tuple[Future[Child], bool]] = deque()
        # By pid: a descriptor that means no other process, and who waits for its end.
        self._quick: dict[int, tuple[int, Future[None]]] = {}
        channel.setblocking(False)
        loop.watch(channel.fileno(), READ, self._on_message)

    def tell(self, exits: Sequence[bytes]) -> None:
        """Take the exits that happened before this worker."""
        for message in exits:
            self._on_exit(message)

    async def spawn(self, program: Program, fds: Sequence[int]) -> Child:
        """Have the keeper start a program (`spawning.spawn`); `OSError`, `Internal`."""
        future: Future[Child] = Future(self._loop)
        request = marshal.dumps(program)
        try:
            socket.send_fds(self._channel, [HEAD.pack(SPAWN, len(fds), len(request), 0)], list(fds))
            for start in range(0, len(request), PIECE):
                self._channel.send(request[start : start + PIECE])
        except BlockingIOError as error:
            raise Internal("the keeper takes no requests") from error
        self._starting.append((future, program[-1]))
        return await future

    def rest(self, state: bytes) -> None:
        """Give all to the keeper and end; returns when that is not possible."""
        own = {self._channel.fileno(), self._loop.fd, *self._reaper.fds, *(fd for fd, _ in self._quick.values())}
        own |= sealed.descriptors() | scratch.descriptors()
        fds = [fd for fd in sorted(open_fds()) if fd and fd not in own]
        if len(fds) > MAX_FDS or max(fds) >= FIRST_OWN or len(state) > _STATE_MAX:
            return
        watched = self._loop.watched
        hand_over(self._channel, state, {fd: watched.get(fd, 0) for fd in fds}, self._seen)

    def end(self) -> NoReturn:
        """The shim is over."""
        self._channel.setblocking(True)
        self._channel.send(HEAD.pack(OVER, 0, 0, 0))
        os._exit(0)

    def _on_message(self, _: int) -> None:
        try:
            message = self._channel.recv(PIECE)
        except ConnectionResetError:
            message = b""
        if not message:
            self._end_quick()
            _orphaned()
        if message[0]:
            self._on_spawned(message)
        else:
            self._seen += 1
            self._on_exit(message)

    def _on_exit(self, message: bytes) -> None:
        _, pid, raw, at = EXIT.unpack(message)
        if pid in self._quick:
            # The keeper may have been quicker than the kernel's own notice.
            fd, gone = self._quick.pop(pid)
            self._loop.unwatch(fd)
            os.close(fd)
            gone.set(None)
        self._reaper.ended(pid, Ended(exit_status(raw), at))

    def _on_spawned(self, message: bytes) -> None:
        """The end is watched at once: it may be in the next message."""
        _, pid, error = SPAWNED.unpack(message)
        future, quick = self._starting.popleft()
        if pid:
            future.set(Child(pid, self._reaper.watch(pid), self._watch_quick(pid) if quick else None))
        else:
            future.fail(OSError(error, os.strerror(error)))

    def _watch_quick(self, pid: int) -> Future[None] | None:
        """None for one that has been reaped already."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        gone: Future[None] = Future(self._loop)
        self._quick[pid] = fd, gone

        def ended(_: int) -> None:
            self._loop.unwatch(fd)
            gone.set(None)

        self._loop.watch(fd, READ, ended)
        return gone

    def _end_quick(self) -> None:
        """Nobody else ends them with the keeper."""
        for fd, _ in self._quick.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, made: Mapping[str, object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._names = {id(value): name for name, value in made.items()}

    def persistent_id(self, value: object) -> str | None:
        return self._names.get(id(value))

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, socket.socket):
            return _socket, (value.fileno(),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, made: Mapping[str, object]) -> None:
        super().__init__(file)
        self._made = made

    def persistent_load(self, name: Any) -> object:
        return self._made[name]


def pack(value: object, made: Mapping[str, object]) -> bytes:
    """A pickle in which the objects that each process makes for itself are only named."""
    file = io.BytesIO()
    _Pickler(file, made).dump(value)
    return file.getvalue()


def unpack(state: bytes, made: Mapping[str, object]) -> Any:
    """The value, with this process's own objects in their places."""
    return _Unpickler(io.BytesIO(state), made).load()


def next_patience(patience: float, rested: float) -> float:
    """How long to wait for the next rest, after one that began at `rested` (monotonic seconds)."""
    shortest, longest = _PATIENCE
    return min(patience * 2, longest) if time.monotonic() - rested < _SHORT else shortest


def move(channel: socket.socket) -> socket.socket:
    """Out of the way of the descriptors that are handed over."""
    fd = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD_CLOEXEC, FIRST_OWN)
    channel.close()
    return socket.socket(fileno=fd)


def _place(fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Give descriptors the numbers that they had before; moved away first, as one may stand in another's place."""
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _MOVED) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number, inheritable=False)
        os.close(fd)


def _socket(fd: int) -> socket.socket:
    """Python's object for a Unix socket that this process has inherited; a closed one stays closed."""
    if fd < 0:
        closed = socket.socket(socket.AF_UNIX)
        closed.close()
        return closed
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)


def open_fds() -> set[int]:
    """The descriptors of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.add(fd)
    return found


def _orphaned() -> NoReturn:
    """The keeper is dead, and with it the shim; or it has not waited for this worker."""
    os._exit(1)
