"""How a worker rests: its state as bytes, its descriptors as rights, both to the keeper; and how the next one goes on.

The state is a pickle of the shim without what a process makes for itself (the loop, the reaper …), which the next worker
puts in its place. Descriptors are numbers in it, and have the same numbers again. Coroutines are not kept: a loop rests
only when all that they wait for is the end of a process or of a sandbox, and those are begun anew.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from moorage_shim.keeper import EXIT, FIRST_OWN, HELD, MAX_FDS, PIECE, REST, Exits
from moorage_shim.loop import READ, Loop
from moorage_shim.processes import Ended, Reaper, exit_status

_STATE_MAX = 4 << 20
# A shim that is woken soon after its rest waits longer for the next one: rests shorter than this double its patience.
_SHORT = 10.0
_PATIENCE = (0.3, 30.0)


class KeeperLink:
    """The worker's end of the socket to its keeper."""

    def __init__(self, channel: socket.socket, loop: Loop, reaper: Reaper) -> None:
        self._channel = channel
        self._loop = loop
        self._reaper = reaper
        self._seen = 0
        channel.setblocking(False)
        loop.watch(channel.fileno(), READ, self._on_message)

    def tell(self, exits: Exits) -> None:
        """Take the exits that happened before this worker."""
        for pid, raw, at in exits:
            self._reaper.ended(pid, Ended(exit_status(raw), at))

    def rest(self, state: bytes) -> None:
        """Give all to the keeper and end; returns when that is not possible."""
        own = {self._channel.fileno(), self._loop.fd, *self._reaper.fds}
        fds = [fd for fd in sorted(open_fds()) if fd and fd not in own]
        if len(fds) > MAX_FDS or max(fds) >= FIRST_OWN or len(state) > _STATE_MAX:
            return
        watched = self._loop.watched
        message = REST.pack(self._seen, len(state), len(fds))
        message += b"".join(HELD.pack(fd, watched.get(fd, 0)) for fd in fds)
        self._channel.setblocking(True)
        socket.send_fds(self._channel, [message], fds)
        for start in range(0, len(state), PIECE):
            self._channel.send(state[start : start + PIECE])
        os._exit(0)

    def _on_message(self, _: int) -> None:
        message = self._channel.recv(EXIT.size)
        if not message:
            _orphaned()
        self._seen += 1
        self.tell([EXIT.unpack(message)])


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
    """The keeper is dead, and with it the shim."""
    os._exit(1)
