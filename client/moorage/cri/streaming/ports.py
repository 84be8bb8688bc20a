"""One connection to a port of a pod."""

from __future__ import annotations

from moorage.cri.streaming.link import Link, Stream
from moorage_api.errors import Unavailable


class AsyncPort:
    """Bytes to and from whoever listens on the port."""

    def __init__(self, link: Link, port: int) -> None:
        self._link = link
        self._port = port
        self._open = {Stream.STDOUT, Stream.ERROR}

    async def write(self, data: bytes) -> None:
        """Send; returns when more is taken. `Unavailable` when the other side is gone."""
        await self._link.send(Stream.STDIN, data)

    async def close_writing(self) -> None:
        """Say that nothing more will be sent; what comes can still be read. `Unimplemented` over a WebSocket."""
        await self._link.end(Stream.STDIN)

    async def read(self) -> bytes:
        """What comes next; empty at the end. `Unavailable` with the reason where the port cannot be reached."""
        problem = b""
        # The reason of a failure may come before the end of the bytes or after it.
        while self._open:
            piece = await self._link.receive()
            if piece is None:
                self._open.clear()
                break
            if piece.end:
                self._open.discard(piece.stream)
            elif piece.stream is Stream.ERROR:
                problem += piece.data
            elif piece.data:
                return piece.data
        if problem:
            raise Unavailable(f"port {self._port}: {problem.decode(errors='replace')}")
        return b""
