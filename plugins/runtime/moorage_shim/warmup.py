"""Warm up the zygote for the one thing that every shim does for all its life: being a keeper.

Python rewrites code that runs often, and fills caches at the first use. What happens before the fork happens once; what
happens after it costs each shim its own copy of a page. Workers are not worth it: their memory goes with them.
"""

from __future__ import annotations

import _socket
import marshal
import posix
import select

from moorage_shim.keeper import HANDED, HEAD, HELD, HELLO, OVER, PIECE, SPAWN, SPAWNED, Keeper
from moorage_shim.libc import Part, fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from moorage_shim.spawning import Program

# A function is rewritten for the types that it meets after eight calls.
_ROUNDS = 12
_NO_PROGRAM: Program = ("/", ("/",), "/", None, (), False, False, False, None, True)


def warm_up(code: list[Part]) -> None:
    """Be a keeper for a few rounds."""
    read, write = posix.pipe2(posix.O_CLOEXEC)
    posix.write(write, b"x")
    keeper = Keeper([_worker], b"x", [(read, 3, select.POLLIN), (write, 4, 0)], code)
    keeper.run()
    keeper.close()


def _worker(fd: int) -> int:
    pid = fork()
    if not pid:
        _rest_or_end(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd))
    return pid


def _rest_or_end(channel: _socket.socket) -> NoReturn:
    """A worker that has a program started which does not exist, and rests at once, with something that is ready, so that
    the next one begins; the last one ends."""
    try:
        channel.send(HELLO)
        head, rights, _, _ = channel.recvmsg(PIECE, 1024)
        _, _, size, exits = HEAD.unpack_from(head)
        state = channel.recv(PIECE)
        for _ in range(exits):
            channel.recv(PIECE)
        if size > _ROUNDS:
            channel.send(HEAD.pack(OVER, 0, 0, 0))
            posix._exit(0)
        program = marshal.dumps(_NO_PROGRAM)
        channel.sendmsg(
            [HEAD.pack(SPAWN, 1, len(program), 0)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights[0][2][4:])]
        )
        channel.send(program)
        told = 0
        while channel.recv(PIECE)[: SPAWNED.size][0] == 0:
            told += 1
        message = HEAD.pack(HANDED, 2, size + 1, told) + HELD.pack(3, select.POLLIN) + HELD.pack(4, 0)
        channel.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights[0][2])])
        channel.send(state + b"x")
    finally:
        posix._exit(0)
