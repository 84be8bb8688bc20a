"""A command in a container, or a container's own process, at the other end of a link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from moorage.cri.streaming.link import Link, Piece, Stream
from moorage_api.errors import MoorageError, Unavailable


@dataclass(frozen=True, slots=True)
class Output:
    """What a process wrote, and how it ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class AsyncProcess:
    """Its streams. Nothing comes but to who reads: `output`, `communicate` or `wait`, one at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._status = b""
        self._ended = False

    async def write(self, data: bytes) -> None:
        """Send to its standard input; returns when more is taken. `Unavailable` when it is gone."""
        await self._link.send(Stream.STDIN, data)

    async def close_stdin(self) -> None:
        """Say that its input ends. `Unimplemented` over a WebSocket with a server that only speaks version 4."""
        await self._link.end(Stream.STDIN)

    async def resize(self, width: int, height: int) -> None:
        """Tell the size of its terminal, in columns and rows."""
        size = json.dumps({"Width": width, "Height": height})
        await self._link.send(Stream.RESIZE, f"{size}\n".encode())

    async def read(self) -> Piece | None:
        """The next bytes of its output, of whichever stream; None when it has ended."""
        while not self._ended:
            piece = await self._link.receive()
            if piece is None or (piece.stream is Stream.ERROR and piece.end):
                self._ended = True
            elif piece.stream is Stream.ERROR:
                self._status += piece.data
            elif piece.data:
                return piece
        return None

    async def output(self) -> AsyncIterator[Piece]:
        """Its output as it comes, to the end."""
        while (piece := await self.read()) is not None:
            yield piece

    async def wait(self) -> int:
        """Wait for its end, dropping what it writes; returns its exit code. Errors: see `exit_code`."""
        while await self.read() is not None:
            pass
        return exit_code(self._status)

    async def communicate(self, data: bytes | None = None) -> Output:
        """Send `data` as its whole input (None: leave that alone), read all its output, and wait for its end."""
        sending = asyncio.ensure_future(self._feed(data)) if data is not None else None
        found = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        try:
            async for piece in self.output():
                found[piece.stream] += piece.data
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return Output(exit_code(self._status), bytes(found[Stream.STDOUT]), bytes(found[Stream.STDERR]))

    async def _feed(self, data: bytes) -> None:
        await self.write(data)
        await self.close_stdin()


def exit_code(status: bytes) -> int:
    """What a status document (`metav1.Status`) says. `MoorageError` where it tells of a failure that is none of the
    process's, `Unavailable` where the connection ended without one."""
    if not status:
        raise Unavailable("the stream server ended the connection without a status")
    try:
        document: dict[str, Any] = json.loads(status)
    except ValueError as error:
        raise MoorageError(f"the stream server's status is not JSON: {status[:200]!r}") from error
    if document.get("status") == "Success":
        return 0
    for cause in document.get("details", {}).get("causes", ()):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise MoorageError(str(document.get("message", "unknown failure")))
