"""Two connections over one socket, as NRI multiplexes it. Bytes in, frames out.

A frame is a header of eight bytes, the connection's number and the payload's length (both big-endian), and the
payload. The plugin answers on connection 1, the runtime on connection 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from moorage_api.ttrpc import MAX_MESSAGE, ProtocolError

PLUGIN = 1
RUNTIME = 2

_HEADER = Struct(">II")
_TTRPC_HEADER = 10
_MAX_PAYLOAD = MAX_MESSAGE + _TTRPC_HEADER
# The common plugin library reads the first frame of a message into a buffer of this size, and refuses one that does
# not fit; what is left of the message it reads in one piece.
_FIRST = 4096


def encode(connection: int, message: bytes) -> bytes:
    """One ttrpc message, cut as the peer's reader needs it."""
    head, rest = message[:_FIRST], message[_FIRST:]
    data = _HEADER.pack(connection, len(head)) + head
    return data + _HEADER.pack(connection, len(rest)) + rest if rest else data


class Decoder:
    """Cuts what arrives into frames. Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes; gives the connection and the payload of each frame. `ProtocolError` for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            connection, length = _HEADER.unpack_from(self._buffer)
            if length > _MAX_PAYLOAD:
                raise ProtocolError(f"a frame of {length} bytes is longer than {_MAX_PAYLOAD}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield connection, payload
