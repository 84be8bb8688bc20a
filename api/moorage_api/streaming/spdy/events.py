"""What a session tells of the bytes that came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """SYN_STREAM: the other side opened a stream; `ended` when it will send nothing on it."""

    stream: int
    headers: Mapping[str, str]
    ended: bool = False


@dataclass(frozen=True, slots=True)
class StreamAccepted:
    """SYN_REPLY to a stream of ours."""

    stream: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """HEADERS: more of them for an open stream."""

    stream: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes of a stream, as soon as they are there: a frame may come as several."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The other side will send no more on the stream; it still reads."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST_STREAM: the other side neither sends nor reads any more."""

    stream: int
    reason: int


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """PING that we sent came back."""

    id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """GOAWAY: the other side opens and takes no more streams."""

    last_stream: int
    reason: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """WINDOW_UPDATE: so many more bytes may be sent; stream 0 is the session."""

    stream: int
    size: int


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """SETTINGS, by id."""

    values: Mapping[int, int]


Event = (
    StreamOpened
    | StreamAccepted
    | HeadersReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | PingAnswered
    | GoneAway
    | WindowOpened
    | SettingsReceived
)
