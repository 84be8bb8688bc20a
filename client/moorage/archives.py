"""Bytes over a stream of the streaming service: archives to and from the daemon.

Source: containerd's `core/transfer/streaming`: `Data` one way and `WindowUpdate` the other, each of which adds to what
the sender may send.
"""

from __future__ import annotations

import asyncio
from typing import Any as Message

import grpc
from google.protobuf.any_pb2 import Any

from moorage.convert import pack, type_name
from moorage.stdio import Sink, Source
from moorage_api.errors import Unavailable
from moorage_api.wire import transfer_types_pb2 as types

Call = grpc.aio.StreamStreamCall[Message, Message]
_WINDOW = 8 << 20
_PIECE = 1 << 20


async def receive(call: Call, sink: Sink) -> None:
    """Give what the daemon sends to `sink`, to its end.

    The window is opened again only when it is used up: the daemon then waits for it, or has nothing more to send. A
    write to a stream that the daemon has closed would lose what is still to be read.
    """
    window = 0
    while True:
        if window == 0:
            try:
                await call.write(pack(types.WindowUpdate(update=_WINDOW)))
            except (grpc.RpcError, asyncio.InvalidStateError):
                return
            window = _WINDOW
        message = await call.read()
        if not isinstance(message, Any):
            return
        if type_name(message) == types.Data.DESCRIPTOR.full_name:
            data = types.Data.FromString(message.value).data
            window -= len(data)
            await sink(data)


async def send(call: Call, source: Source) -> None:
    """Send what `source` gives, no faster than the daemon takes it."""
    window = 0
    while data := await source():
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while window < len(piece):
                window += await _update(call)
            await call.write(pack(types.Data(data=piece)))
            window -= len(piece)
    await call.done_writing()


async def _update(call: Call) -> int:
    message = await call.read()
    if not isinstance(message, Any):
        raise Unavailable("the daemon closed the stream before it had all of the archive")
    return types.WindowUpdate.FromString(message.value).update
