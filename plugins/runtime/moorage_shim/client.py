"""A ttrpc client over the shim's loop, for one call at a time."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from moorage_api import ttrpc
from moorage_api.errors import Unavailable
from moorage_shim.loop import READ, WRITE, Loop

_CHUNK = 64 << 10


class Connection:
    """A connection to a Unix socket; `Unavailable` when nobody listens there."""

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._protocol = ttrpc.Client()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{path}: {error.strerror}") from error

    async def call(
        self, service: str, method: str, payload: bytes, timeout: float, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """Make a call; its error is raised. After `Unavailable` or `DeadlineExceeded` the connection is of no use."""
        stream, data = self._protocol.call(service, method, payload, timeout=timeout, metadata=metadata)
        try:
            await self._send(data, timeout)
            while True:
                await self._loop.ready(self._socket.fileno(), READ, timeout, self._path)
                answer = self._socket.recv(_CHUNK)
                if not answer:
                    raise Unavailable(f"{self._path}: the connection was closed")
                for event in self._protocol.receive(answer):
                    if isinstance(event, ttrpc.ResponseReceived) and event.stream == stream:
                        return _result(event)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error}") from error

    async def _send(self, data: bytes, timeout: float) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await self._loop.ready(self._socket.fileno(), WRITE, timeout, self._path)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _result(event: ttrpc.ResponseReceived) -> bytes:
    if event.error is not None:
        raise event.error
    return event.payload
