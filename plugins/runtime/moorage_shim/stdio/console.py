"""Terminals: the OCI runtime sends the master side of a process's terminal over a Unix socket (runc, terminals.md)."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress

from moorage_api.errors import MoorageError
from moorage_shim.loop import READ, Loop

_NAME = "c"
_PATIENCE = 10.0
_WHAT = "terminal from the OCI runtime"


class ConsoleSocket:
    """A socket in a folder of its own inside the bundle, for one terminal. Its path is short whatever the bundle's is:
    it leads through a descriptor of this process, since a socket's path is at most 107 bytes."""

    def __init__(self, loop: Loop, bundle: str, name: str) -> None:
        self._loop = loop
        self._folder = os.path.join(bundle, f".console-{name}")
        os.mkdir(self._folder, 0o700)
        self._fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}/{_NAME}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._listener.bind(self.path)
            self._listener.listen(1)
        except OSError:
            self.close()
            raise

    async def receive(self) -> int:
        """The terminal's master, once the runtime has sent it."""
        await self._loop.ready(self._listener.fileno(), READ, _PATIENCE, _WHAT)
        connection, _ = self._listener.accept()
        with connection:
            connection.setblocking(False)
            await self._loop.ready(connection.fileno(), READ, _PATIENCE, _WHAT)
            _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i", data[:4])
                return fds[0]
        raise MoorageError("OCI runtime sent no terminal")

    def close(self) -> None:
        """Remove the socket and its folder."""
        self._listener.close()
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, _NAME))
        os.rmdir(self._folder)


def resize(master: int, width: int, height: int) -> None:
    """Set a terminal's size in characters; its foreground process gets SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
