"""Bytes over a stream of the streaming service, both ways, with the receiver's window as the measure.

Source: containerd's `core/transfer/streaming`: messages `Data` one way and `WindowUpdate` the other, each of which adds
to what the sender may send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from moorage_api.errors import InvalidArgument, Unavailable
from moorage_api.wire import transfer_types_pb2 as types
from mooraged.services.streaming import Stream, read

# Bytes that a sender may be ahead. containerd's own clients give 64 KiB, which a fast sender waits for most of the time.
_WINDOW: Final = 8 << 20
# Bytes of one message, well below the limit of gRPC.
_MESSAGE_MAX: Final = 1 << 20


async def received(stream: Stream) -> AsyncIterator[bytes]:
    """The bytes that the client sends, until it closes its side."""
    window = 0
    while True:
        if window < _WINDOW // 2:
            await stream.send(types.WindowUpdate(update=_WINDOW - window))
            window = _WINDOW
        message = await stream.receive()
        if message is None:
            return
        data = read(message, types.Data).data
        window -= len(data)
        if window < 0:
            raise InvalidArgument("the client sends more than the window allows")
        if data:
            yield data


class Sender:
    """Sends bytes to the client, no faster than it takes them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._window = 0

    async def send(self, data: bytes) -> None:
        """`Unavailable` when the client has gone."""
        view = memoryview(data)
        while view:
            while self._window <= 0:
                self._window += await self._update()
            piece = view[: min(self._window, _MESSAGE_MAX)]
            await self._stream.send(types.Data(data=bytes(piece)))
            self._window -= len(piece)
            view = view[len(piece) :]

    async def _update(self) -> int:
        message = await self._stream.receive()
        if message is None:
            raise Unavailable("the client closed the stream before it had all of the archive")
        return read(message, types.WindowUpdate).update
