"""What carries several streams over one connection: the contract of both transports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from moorage_api.streaming import channels


class Stream(IntEnum):
    """The streams of a command or of a port; their numbers are those of WebSocket channels."""

    STDIN = channels.STDIN
    STDOUT = channels.STDOUT
    STDERR = channels.STDERR
    ERROR = channels.ERROR
    RESIZE = channels.RESIZE


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a stream. `end` when nothing more comes on it."""

    stream: Stream
    data: bytes = b""
    end: bool = False


class Link(Protocol):
    """Several streams with one server. Nothing is read but in `receive`, so a slow reader slows the server down."""

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send bytes; returns when the server takes more. `Unavailable` when it is gone."""

    async def end(self, stream: Stream) -> None:
        """Say that nothing more will be sent on a stream. `Unimplemented` where the protocol cannot say that."""

    async def receive(self) -> Piece | None:
        """What comes next, whichever stream it is of; None at the end of all of them."""

    async def close(self) -> None:
        """Close the connection; closing twice is harmless."""
