"""Several channels in one WebSocket: the `channel.k8s.io` subprotocols of Kubernetes, without I/O.

A message is a channel's number and then bytes: one byte and the bytes as they are, or, in the base64 variants, one
digit and the bytes in base64, as text. From version 4 on the error channel carries a status as JSON; version 5, which
is binary only, has channel 255, on which the number of a channel says that no more will come on it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moorage_api.errors import InvalidArgument

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255

_SUFFIX = "channel.k8s.io"
_BASE64_SUFFIX = "base64.channel.k8s.io"
_CLOSES = 5
_TEXT_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Subprotocol:
    """One of the variants. An empty name is that of a client which names none; it is served version 1."""

    name: str
    version: int = 1
    base64: bool = False

    @property
    def closes(self) -> bool:
        """Whether a single channel can be closed."""
        return self.version >= _CLOSES


SUBPROTOCOLS = {
    each.name: each
    for each in (
        Subprotocol(_SUFFIX),
        *(Subprotocol(f"v{version}.{_SUFFIX}", version) for version in (1, 2, 3, 4, 5)),
        Subprotocol(_BASE64_SUFFIX, base64=True),
        *(Subprotocol(f"v{version}.{_BASE64_SUFFIX}", version, base64=True) for version in (1, 2, 3, 4)),
    )
}


def negotiate(offered: Sequence[str]) -> Subprotocol | None:
    """The first of the offered ones that is known; the unnamed one where nothing is offered."""
    if not offered:
        return Subprotocol("")
    return next((SUBPROTOCOLS[name] for name in offered if name in SUBPROTOCOLS), None)


@dataclass(frozen=True, slots=True)
class ChannelData:
    """Bytes of a channel; maybe none."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """No more will come on the channel."""

    channel: int


ChannelEvent = ChannelData | ChannelClosed


class Demultiplexer:
    """Takes the pieces of messages as they come; those of a binary message are passed on at once."""

    def __init__(self, subprotocol: Subprotocol) -> None:
        self._subprotocol = subprotocol
        self._channel: int | None = None
        self._text = ""

    def receive_bytes(self, data: bytes, *, finished: bool = True) -> Iterator[ChannelEvent]:
        """A piece of a binary message; the last one when `finished`. `InvalidArgument` with a base64 subprotocol."""
        if self._subprotocol.base64:
            raise InvalidArgument("binary message with a base64 subprotocol")
        if self._channel is None and data:
            self._channel, data = data[0], data[1:]
        channel = self._channel
        if finished:
            self._channel = None
        if channel == CLOSE and self._subprotocol.closes:
            yield from (ChannelClosed(number) for number in data)
        elif channel is not None:
            yield ChannelData(channel, bytes(data))

    def receive_text(self, text: str, *, finished: bool = True) -> Iterator[ChannelEvent]:
        """A piece of a text message. `InvalidArgument` without a base64 subprotocol, and for what is not base64."""
        if not self._subprotocol.base64:
            raise InvalidArgument("text message with a binary subprotocol")
        self._text += text
        if len(self._text) > _TEXT_MAX:
            raise InvalidArgument(f"text message of more than {_TEXT_MAX} characters")
        if finished and self._text:
            text, self._text = self._text, ""
            yield _decode(text)


def message(subprotocol: Subprotocol, channel: int, data: bytes) -> bytes | str:
    """The message that carries bytes of a channel."""
    if subprotocol.base64:
        return f"{channel}{base64.b64encode(data).decode()}"
    return bytes((channel,)) + data


def _decode(text: str) -> ChannelData:
    channel = ord(text[0]) - ord("0")
    try:
        return ChannelData(channel, base64.b64decode(text[1:], validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"channel {channel}: {error}") from error
