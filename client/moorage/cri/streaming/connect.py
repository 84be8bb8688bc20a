"""From the address of a call to what is at the other end of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from moorage.cri.streaming.link import Link, Stream
from moorage.cri.streaming.ports import AsyncPort
from moorage.cri.streaming.process import AsyncProcess
from moorage.cri.streaming.spdy import SpdyLink
from moorage.cri.streaming.websocket import ChannelLink, PortLink

Via = Literal["spdy", "websocket"]


@asynccontextmanager
async def process(
    url: str, via: Via, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, tls: ssl.SSLContext | None
) -> AsyncIterator[AsyncProcess]:
    """The process that Exec or Attach gave an address for; leaving the block ends the connection."""
    wanted = {Stream.ERROR: True, Stream.STDIN: stdin, Stream.STDOUT: stdout, Stream.STDERR: stderr, Stream.RESIZE: tty}
    streams = [stream for stream, asked in wanted.items() if asked]
    link = await _command(url, via, streams, tls)
    try:
        yield AsyncProcess(link)
    finally:
        await link.close()


@asynccontextmanager
async def port(url: str, via: Via, number: int, tls: ssl.SSLContext | None) -> AsyncIterator[AsyncPort]:
    """A connection to the port that PortForward gave an address for; leaving the block closes it."""
    link: Link = await (SpdyLink.port(url, number, tls) if via == "spdy" else PortLink.port(url, number, tls))
    try:
        yield AsyncPort(link, number)
    finally:
        await link.close()


async def _command(url: str, via: Via, streams: Sequence[Stream], tls: ssl.SSLContext | None) -> Link:
    if via == "spdy":
        return await SpdyLink.command(url, streams, tls)
    return await ChannelLink.command(url, streams, tls)
