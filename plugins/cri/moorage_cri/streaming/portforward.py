"""Connections from a client to ports of a pod."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from moorage_api.errors import FailedPrecondition, Unavailable
from moorage_api.linux import syscalls
from moorage_cri.concurrency import own_thread
from moorage_cri.context import Cri
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.remotecommand import Writer

_CHUNK = 64 << 10
_CONNECT_SECONDS = 30.0
_HOSTS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Forwarding:
    """The ports of one pod, as they are reached from inside it."""

    def __init__(self, cri: Cri, sandbox_id: str) -> None:
        self._cri = cri
        self._sandbox_id = sandbox_id

    async def forward(self, port: int, source: Inbox, target: Writer) -> None:
        """Carry bytes in both directions until the pod's side has closed its, each direction ending for itself.

        `FailedPrecondition` when the pod is not ready, `Unavailable` when nothing listens there.
        """
        sandbox = self._cri.sandboxes.get(self._sandbox_id)
        if not self._cri.is_ready(sandbox):
            raise FailedPrecondition(f"pod {sandbox.id} is not ready")
        connection = await _connect(sandbox.netns, port)
        try:
            sending = asyncio.ensure_future(_to_pod(source, connection))
            try:
                await _from_pod(connection, target)
            finally:
                source.refuse()
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            connection.close()


async def _connect(netns: str, port: int) -> socket.socket:
    """A connection to a loopback address in a network namespace (empty: the host's), IPv4 first."""
    problems = []
    for family, host in _HOSTS:
        try:
            connection = await own_thread(lambda: _open(netns, family))  # noqa: B023 - awaited within the round
        except OSError as error:
            problems.append(_reason(error))
            continue
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (host, port))
        except (OSError, TimeoutError) as error:
            connection.close()
            problems.append(_reason(error))
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise Unavailable(f"port {port}: {problems[0]}")


def _reason(error: OSError) -> str:
    """The kernel's words; asyncio's do not say what was wrong."""
    return os.strerror(error.errno) if error.errno else "no answer in time"


def _open(netns: str, family: socket.AddressFamily) -> socket.socket:
    """A socket belongs for ever to the namespace of the thread that makes it."""
    if netns:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
        finally:
            os.close(fd)
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


async def _to_pod(source: Inbox, connection: socket.socket) -> None:
    """A pod that has closed its side takes no more."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await source.get():
            await loop.sock_sendall(connection, data)
        connection.shutdown(socket.SHUT_WR)


async def _from_pod(connection: socket.socket, target: Writer) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(connection, _CHUNK)
        except OSError as error:
            raise Unavailable(f"the pod's side failed: {error.strerror}") from error
        if not data:
            return
        await target.write(data)
