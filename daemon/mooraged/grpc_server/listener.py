"""A Unix socket that connections come to."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from moorage_api.errors import Code, FailedPrecondition
from mooraged.grpc_server.application import Application
from mooraged.grpc_server.protocol import GrpcProtocol

# A burst of thousands waits here while the loop is at something else; the kernel allows `net.core.somaxconn`.
_BACKLOG = 65_535
_BUFFER = 256 << 10
# How long handlers that are cancelled, and clients that are to read their last answers, may take at the end. Seconds.
_CANCELLED = 1.0
_LAST_WORDS = 1.0


class Listener:
    """Serves an application to whoever connects."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._protocols: set[GrpcProtocol] = set()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._server: asyncio.Server | None = None
        self._deserted: asyncio.Future[None] | None = None  # done when the last connection has gone
        self._address = ""
        self._identity: tuple[int, int] | None = None

    async def start(self, address: str, uid: int, gid: int) -> None:
        """Bind the socket (mode 0600, or 0660 with a group) and serve. `FailedPrecondition` where it cannot be bound."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(address)
            # Nobody is served before this: the socket does not listen.
            os.chown(address, uid, gid)
            os.chmod(address, 0o660 if gid else 0o600)
            status = os.stat(address)
        except OSError as error:
            listening.close()
            raise FailedPrecondition(f"cannot listen on {address}: {error}") from error
        self._address, self._identity = address, (status.st_dev, status.st_ino)
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connected, sock=listening, backlog=_BACKLOG)

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those under way `grace` seconds, and close the connections."""
        if self._server is None:
            return
        self._server.close()
        self._unlink()
        for protocol in self._protocols:
            protocol.connection.leave()
        await self._ended(grace)
        for protocol in self._protocols:
            for stream in list(protocol.connection.streams.values()):
                stream.end(Code.UNAVAILABLE, "the daemon is stopping")
        await self._ended(_CANCELLED)
        for protocol in self._protocols:
            protocol.close()
        if self._protocols:
            self._deserted = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._deserted], timeout=_LAST_WORDS)
        for protocol in list(self._protocols):
            protocol.abort()

    async def _ended(self, seconds: float) -> None:
        """Wait until no handler runs, at most so long."""
        tasks = [task for protocol in self._protocols for task in protocol.connection.tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _connected(self) -> GrpcProtocol:
        protocol = GrpcProtocol(self._application, self._buffer, self._forget)
        self._protocols.add(protocol)
        return protocol

    def _forget(self, protocol: GrpcProtocol) -> None:
        self._protocols.discard(protocol)
        if not self._protocols and self._deserted is not None and not self._deserted.done():
            self._deserted.set_result(None)

    def _unlink(self) -> None:
        """Remove the socket's name, unless it is another's by now."""
        with suppress(FileNotFoundError):
            status = os.stat(self._address)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self._address)
