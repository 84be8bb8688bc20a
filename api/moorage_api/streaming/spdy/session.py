"""One end of a SPDY/3.1 session: frames in and out, and which streams are open.

Windows are told, and not kept: the implementations in Kubernetes have none (they neither send WINDOW_UPDATE nor heed
it), so that a sender that waited for one would wait for ever. What bounds bytes in flight is the transport: who cannot
take more of a stream does not read on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from moorage_api.streaming.spdy import events
from moorage_api.streaming.spdy.errors import GoAway, ProtocolError, Reset
from moorage_api.streaming.spdy.headers import Compressor, Decompressor

CONTROL_MAX = 32 << 10
"""Bytes of a control frame that are taken. A data frame may be of any size: it is not kept."""
STREAMS_MAX = 1000
"""Streams that the other side may have open at once; more are refused."""

_VERSION = 3
_CONTROL = 1 << 31
_FIN = 0x01
_UNIDIRECTIONAL = 0x02
_HEAD = struct.Struct(">II")
_WORD = struct.Struct(">I")
_TWO_WORDS = struct.Struct(">II")
_SYN_STREAM = struct.Struct(">IIH")
_ID = (1 << 31) - 1
_LENGTH = (1 << 24) - 1


class Kind(IntEnum):
    """The types of control frames (section 2.6)."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


@dataclass(slots=True)
class _Stream:
    """Which directions are still open."""

    receiving: bool = True
    sending: bool = True


class Session:
    """Feed `receive` what the transport has, send what `take` gives, before and after every call.

    The side that asked for the connection (`client`) opens streams with odd ids, the other with even ones.
    """

    def __init__(self, *, client: bool = False) -> None:
        self._parity = 1 if client else 0
        self._next_id = 1 if client else 2
        self._next_ping = self._next_id
        self._last_remote = 0
        self._streams: dict[int, _Stream] = {}
        self._compressor = Compressor()
        self._decompressor = Decompressor()
        self._input = bytearray()
        self._output: list[bytes] = []
        self._body: tuple[int, int, bool] | None = None
        self._readers: dict[int, Callable[[int, bytes], Iterator[events.Event]]] = {
            Kind.SYN_STREAM: self._on_syn_stream,
            Kind.SYN_REPLY: self._on_syn_reply,
            Kind.RST_STREAM: self._on_reset,
            Kind.SETTINGS: self._on_settings,
            Kind.PING: self._on_ping,
            Kind.GOAWAY: self._on_go_away,
            Kind.HEADERS: self._on_headers,
            Kind.WINDOW_UPDATE: self._on_window,
        }

    def take(self) -> bytes:
        """What is to be sent, and has not been taken."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def receive(self, data: bytes) -> Iterator[events.Event]:
        """The events of what came in. `ProtocolError` when the session cannot go on; a GOAWAY is then to be sent."""
        self._input += data
        while True:
            if self._body is not None:
                if not self._input and self._body[1]:
                    return
                yield from self._data()
                continue
            frame = self._frame()
            if frame is None:
                return
            yield from frame

    def open(self, headers: Mapping[str, str], *, end: bool = False) -> int:
        """Open a stream; returns its id. With `end`, nothing will be sent on it."""
        id = self._next_id
        self._next_id += 2
        self._streams[id] = _Stream(sending=not end)
        block = _SYN_STREAM.pack(id, 0, 0) + self._compressor.block(headers)
        self._control(Kind.SYN_STREAM, block, _FIN if end else 0)
        return id

    def accept(self, stream: int, headers: Mapping[str, str] | None = None) -> None:
        """Answer an opened stream."""
        self._control(Kind.SYN_REPLY, _WORD.pack(stream) + self._compressor.block(headers or {}))

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Bytes of a stream; with `end`, the last. Nothing happens on a stream whose sending side is closed."""
        state = self._streams.get(stream)
        if state is None or not state.sending:
            return
        for start in range(0, max(len(data), 1), _LENGTH):
            piece = data[start : start + _LENGTH]
            last = end and start + len(piece) >= len(data)
            self._output += (_HEAD.pack(stream, (_FIN if last else 0) << 24 | len(piece)), piece)
        if end:
            state.sending = False
            self._forget_closed(stream)

    def reset(self, stream: int, reason: Reset) -> None:
        """End a stream in both directions at once."""
        if self._streams.pop(stream, None) is not None:
            self._control(Kind.RST_STREAM, _TWO_WORDS.pack(stream, reason))

    def ping(self) -> int:
        """Ask for an answer; returns the id that it will have."""
        id = self._next_ping
        self._next_ping += 2
        self._control(Kind.PING, _WORD.pack(id))
        return id

    def go_away(self, reason: GoAway = GoAway.OK) -> None:
        """Say that no more streams are taken."""
        self._control(Kind.GOAWAY, _TWO_WORDS.pack(self._last_remote, reason))

    def _control(self, kind: Kind, payload: bytes, flags: int = 0) -> None:
        self._output += (_HEAD.pack(_CONTROL | _VERSION << 16 | kind, flags << 24 | len(payload)), payload)

    def _frame(self) -> Iterator[events.Event] | None:
        """The events of the next frame, or of a data frame's head; None when it is not all there."""
        if len(self._input) < _HEAD.size:
            return None
        first, second = _HEAD.unpack_from(self._input)
        flags, length = second >> 24, second & _LENGTH
        if not first & _CONTROL:
            del self._input[: _HEAD.size]
            self._body = (first, length, bool(flags & _FIN))
            return iter(())
        if (first >> 16) & 0x7FFF != _VERSION:
            raise ProtocolError(f"frame of SPDY version {(first >> 16) & 0x7FFF}, not {_VERSION}")
        if length > CONTROL_MAX:
            raise ProtocolError(f"control frame of {length} bytes: at most {CONTROL_MAX}")
        if len(self._input) < _HEAD.size + length:
            return None
        payload = bytes(self._input[_HEAD.size : _HEAD.size + length])
        del self._input[: _HEAD.size + length]
        return self._read_control(first & 0xFFFF, flags, payload)

    def _read_control(self, kind: int, flags: int, payload: bytes) -> Iterator[events.Event]:
        reader = self._readers.get(kind)
        if reader is None:
            return
        try:
            yield from reader(flags, payload)
        except struct.error as error:
            raise ProtocolError(f"{Kind(kind).name} is too short: {error}") from error

    def _data(self) -> Iterator[events.Event]:
        """As much of a data frame as there is. What comes for a stream that was closed is dropped."""
        assert self._body is not None
        id, length, fin = self._body
        data = bytes(self._input[:length])
        del self._input[: len(data)]
        remaining = length - len(data)
        self._body = (id, remaining, fin) if remaining else None
        stream = self._streams.get(id)
        if stream is None or not stream.receiving:
            return
        if data:
            yield events.DataReceived(id, data)
        if fin and not remaining:
            yield from self._ended(id)

    def _ended(self, id: int) -> Iterator[events.Event]:
        self._streams[id].receiving = False
        self._forget_closed(id)
        yield events.StreamEnded(id)

    def _on_syn_stream(self, flags: int, payload: bytes) -> Iterator[events.Event]:
        id = _SYN_STREAM.unpack_from(payload)[0] & _ID
        headers = self._decompressor.headers(payload[_SYN_STREAM.size :])
        if id % 2 == self._parity or id <= self._last_remote:
            raise ProtocolError(f"stream {id} after stream {self._last_remote}")
        self._last_remote = id
        if sum(1 for each in self._streams if each % 2 != self._parity) >= STREAMS_MAX:
            self._control(Kind.RST_STREAM, _TWO_WORDS.pack(id, Reset.REFUSED_STREAM))
            return
        ended = bool(flags & _FIN)
        self._streams[id] = _Stream(not ended, not flags & _UNIDIRECTIONAL)
        yield events.StreamOpened(id, headers, ended)

    def _on_syn_reply(self, flags: int, payload: bytes) -> Iterator[events.Event]:
        id = _WORD.unpack_from(payload)[0] & _ID
        headers = self._decompressor.headers(payload[_WORD.size :])
        if id in self._streams:
            yield events.StreamAccepted(id, headers)
            if flags & _FIN:
                yield from self._ended(id)

    def _on_headers(self, flags: int, payload: bytes) -> Iterator[events.Event]:
        id = _WORD.unpack_from(payload)[0] & _ID
        headers = self._decompressor.headers(payload[_WORD.size :])
        if id in self._streams:
            yield events.HeadersReceived(id, headers)
            if flags & _FIN:
                yield from self._ended(id)

    def _on_reset(self, _: int, payload: bytes) -> Iterator[events.Event]:
        id, reason = _TWO_WORDS.unpack_from(payload)
        if self._streams.pop(id & _ID, None) is not None:
            yield events.StreamReset(id & _ID, reason)

    def _on_ping(self, _: int, payload: bytes) -> Iterator[events.Event]:
        (id,) = _WORD.unpack_from(payload)
        if id % 2 == self._parity:
            yield events.PingAnswered(id)
        else:
            self._control(Kind.PING, _WORD.pack(id))

    def _on_go_away(self, _: int, payload: bytes) -> Iterator[events.Event]:
        last, reason = _TWO_WORDS.unpack_from(payload)
        yield events.GoneAway(last & _ID, reason)

    def _on_window(self, _: int, payload: bytes) -> Iterator[events.Event]:
        id, size = _TWO_WORDS.unpack_from(payload)
        yield events.WindowOpened(id & _ID, size & _ID)

    def _on_settings(self, _: int, payload: bytes) -> Iterator[events.Event]:
        (count,) = _WORD.unpack_from(payload)
        if len(payload) < _WORD.size + count * _TWO_WORDS.size:
            raise ProtocolError("SETTINGS is too short")
        pairs = _TWO_WORDS.iter_unpack(payload[_WORD.size : _WORD.size + count * _TWO_WORDS.size])
        yield events.SettingsReceived({key & _LENGTH: value for key, value in pairs})

    def _forget_closed(self, id: int) -> None:
        stream = self._streams[id]
        if not stream.sending and not stream.receiving:
            del self._streams[id]
