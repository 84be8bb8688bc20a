"""The bytes of one connection, and what is known of it: when something last passed, whether the client is there."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Protocol

_CHUNK = 64 << 10
# A client whose host vanished is noticed after about two minutes: probes begin after a minute, every ten seconds.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


class Pipe(Protocol):
    """Bytes in both directions."""

    async def read(self) -> bytes:
        """Some bytes; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while much is unsent. `ConnectionError` when the client has gone."""

    def gone(self) -> bool:
        """Whether the client has closed the connection, also when that was not read yet."""


class Transport:
    """A TCP connection, with or without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._last = asyncio.get_running_loop().time()
        self._socket: socket.socket = writer.get_extra_info("socket")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)

    async def read(self) -> bytes:
        data = await self._reader.read(_CHUNK)
        self._touch()
        return data

    async def write(self, data: bytes) -> None:
        if data:
            self._writer.write(data)
            await self._writer.drain()
            self._touch()

    def gone(self) -> bool:
        if self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def idle(self, seconds: float) -> None:
        """Return when nothing has passed for so long."""
        while True:
            left = self._last + seconds - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.sleep(left)

    def close(self) -> None:
        """End the connection; what is unsent is still sent where the client takes it."""
        self._writer.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    def _touch(self) -> None:
        self._last = asyncio.get_running_loop().time()
