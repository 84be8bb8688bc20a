"""The streams of a command or a container at a client: standard streams, sizes of the terminal, and the status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol

from wsproto.events import TextMessage

from moorage_api.errors import DeadlineExceeded, InvalidArgument
from moorage_api.streaming import channels
from moorage_api.streaming.channels import ChannelClosed, ChannelEvent, Demultiplexer, Subprotocol
from moorage_api.streaming.spdy.errors import Reset
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.link import Link, Stream
from moorage_cri.streaming.websocket import WebSocket

SPDY_PROTOCOLS = {f"v{version}.channel.k8s.io": version for version in (4, 3, 2)} | {"channel.k8s.io": 1}
"""The stream protocols that are spoken over SPDY, the preferred one first."""

_RESIZE_VERSION = 3
_SIZE_MAX = 4096
_CELLS_MAX = 0xFFFF


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which streams the call asked for. With a terminal, output and errors are one stream."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def check(self) -> None:
        """`InvalidArgument` for what makes no sense."""
        if self.tty and self.stderr:
            raise InvalidArgument("tty and stderr cannot both be true")
        if not (self.stdin or self.stdout or self.stderr):
            raise InvalidArgument("one of stdin, stdout, or stderr must be set")


class Writer(Protocol):
    """Takes output to the client."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class RemoteStreams:
    """What the client opened. `version` is that of the stream protocol, which decides how the status looks."""

    version: int
    error: Writer
    stdin: Inbox | None = None
    stdout: Writer | None = None
    stderr: Writer | None = None
    resize: Inbox | None = None

    async def finish(self, status: bytes) -> None:
        """Write the status, and end all streams."""
        for inbox in (self.stdin, self.resize):
            if inbox is not None:
                inbox.refuse()
        if status:
            await self.error.write(status)
        for writer in (self.stdout, self.stderr, self.error):
            if writer is not None:
                await writer.close()


async def open_spdy(link: Link, wanted: Wanted, version: int, seconds: float) -> RemoteStreams:
    """Wait until the client has opened all streams; `DeadlineExceeded` when it has not in time."""
    expected = {"error", *(name for name in ("stdin", "stdout", "stderr") if getattr(wanted, name))}
    if wanted.tty and version >= _RESIZE_VERSION:
        expected.add("resize")
    found: dict[str, Stream] = {}
    try:
        async with asyncio.timeout(seconds):
            while expected:
                stream = await link.opened.get()
                kind = stream.headers.get("streamtype", "")
                if kind in expected:
                    expected.discard(kind)
                    found[kind] = stream
                else:
                    await stream.reset(Reset.REFUSED_STREAM)
    except TimeoutError:
        missing = ", ".join(sorted(expected))
        raise DeadlineExceeded(f"the client did not open these streams within {seconds:g} s: {missing}") from None
    return RemoteStreams(
        version,
        found["error"],
        stdin=found["stdin"].inbox if "stdin" in found else None,
        stdout=found.get("stdout"),
        stderr=found.get("stderr"),
        resize=found["resize"].inbox if "resize" in found else None,
    )


class ChannelSocket:
    """A WebSocket with channels in it. `run` reads."""

    def __init__(self, socket: WebSocket, subprotocol: Subprotocol, inboxes: dict[int, Inbox]) -> None:
        self._socket = socket
        self._subprotocol = subprotocol
        self._inboxes = inboxes

    async def run(self) -> None:
        """Until the client has gone. `InvalidArgument` when it breaks the protocol."""
        demultiplexer = Demultiplexer(self._subprotocol)
        async for message in self._socket.messages():
            finished = message.message_finished
            found: Iterator[ChannelEvent]
            if isinstance(message, TextMessage):
                found = demultiplexer.receive_text(message.data, finished=finished)
            else:
                found = demultiplexer.receive_bytes(bytes(message.data), finished=finished)
            for event in found:
                inbox = self._inboxes.get(event.channel)
                if inbox is None:
                    continue
                if isinstance(event, ChannelClosed):
                    inbox.end()
                else:
                    await inbox.put(event.data)

    def refuse_all(self) -> None:
        """Drop whatever still comes."""
        for inbox in self._inboxes.values():
            inbox.refuse()

    async def send(self, channel: int, data: bytes) -> None:
        """Send one message."""
        await self._socket.send(channels.message(self._subprotocol, channel, data))


class ChannelWriter:
    """One channel to the client. A channel cannot be closed: all end with the WebSocket."""

    def __init__(self, socket: ChannelSocket, channel: int) -> None:
        self._socket = socket
        self._channel = channel

    async def write(self, data: bytes) -> None:
        await self._socket.send(self._channel, data)

    async def close(self) -> None:
        """Nothing: there is no message for it."""


async def open_channels(
    socket: WebSocket, subprotocol: Subprotocol, wanted: Wanted
) -> tuple[ChannelSocket, RemoteStreams]:
    """The channels of a call. An empty message on the first of those to the client says that they are open."""
    stdin = Inbox(socket.gone) if wanted.stdin else None
    resize = Inbox(socket.gone)
    inboxes = {channels.RESIZE: resize} | ({channels.STDIN: stdin} if stdin is not None else {})
    multiplexed = ChannelSocket(socket, subprotocol, inboxes)
    streams = RemoteStreams(
        subprotocol.version,
        ChannelWriter(multiplexed, channels.ERROR),
        stdin=stdin,
        stdout=ChannelWriter(multiplexed, channels.STDOUT) if wanted.stdout else None,
        stderr=ChannelWriter(multiplexed, channels.STDERR) if wanted.stderr else None,
        resize=resize,
    )
    await (streams.stdout or streams.stderr or streams.error).write(b"")
    return multiplexed, streams


async def sizes(resize: Inbox) -> AsyncIterator[tuple[int, int]]:
    """Width and height of the client's terminal, whenever it changes: JSON objects, one after the other. What is not
    such an object ends it."""
    decoder = json.JSONDecoder()
    text = ""
    while data := await resize.get():
        text = (text + data.decode(errors="replace")).lstrip()
        while text:
            try:
                size, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break
            text = text[end:].lstrip()
            if (found := _size(size)) is not None:
                yield found
        if len(text) > _SIZE_MAX:
            return


def _size(value: object) -> tuple[int, int] | None:
    """`{"Width": 80, "Height": 24}`; clients write the names in upper or lower case. None for anything else."""
    if not isinstance(value, dict):
        return None
    fields = {str(name).lower(): field for name, field in value.items()}
    width, height = fields.get("width"), fields.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    if not (0 < width <= _CELLS_MAX and 0 < height <= _CELLS_MAX):
        return None
    return width, height
