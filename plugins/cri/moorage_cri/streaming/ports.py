"""PortForward on one connection: over SPDY, over SPDY in a WebSocket, or in the channels of a WebSocket."""

from __future__ import annotations

import asyncio
import logging
import struct
from contextlib import suppress
from dataclasses import dataclass, field

from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.streaming import channels
from moorage_api.streaming.channels import Subprotocol
from moorage_api.streaming.spdy.errors import Reset
from moorage_cri.streaming.http import Front, Request
from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.jobs import PortForwardJob
from moorage_cri.streaming.lifetime import Limits, while_there
from moorage_cri.streaming.link import Link, Stream
from moorage_cri.streaming.remotecommand import ChannelSocket, ChannelWriter, Writer
from moorage_cri.streaming.upgrade import accept_spdy
from moorage_cri.streaming.websocket import Tunnel, WebSocket

logger = logging.getLogger(__name__)

PROTOCOL = "portforward.k8s.io"
TUNNEL = f"SPDY/3.1+{PROTOCOL}"

_PORT_MAX = 0xFFFF
_PORT = struct.Struct("<H")


async def serve_ports(front: Front, request: Request, job: PortForwardJob, limits: Limits) -> None:
    """Forward connections for whoever sent the request, until it goes."""
    if not request.upgrades_to("websocket"):
        if await accept_spdy(front, request, (PROTOCOL,)) is not None:
            await _serve_link(front, Link(front.transport, front.hand_over()), job, limits)
        return
    offered = request.values("sec-websocket-protocol")
    if TUNNEL in offered:
        socket = await WebSocket.accept(front, request, TUNNEL)
        await _serve_link(front, Link(Tunnel(socket)), job, limits)
        return
    subprotocol = channels.negotiate(offered)
    if subprotocol is None:
        raise InvalidArgument("none of the subprotocols is known")
    if not job.ports:
        raise InvalidArgument("over WebSocket channels, the call must name the ports")
    await _serve_channels(front, request, subprotocol, job, limits)


async def _serve_link(front: Front, link: Link, job: PortForwardJob, limits: Limits) -> None:
    async def finished() -> None:
        await link.close()

    await while_there(front.transport, link.run(), _Pairs(link, job, limits).run(), finished, limits)


@dataclass(slots=True)
class _Pair:
    """The two streams of one connection, of which the first waits for the second."""

    complete: asyncio.Event = field(default_factory=asyncio.Event)
    streams: dict[str, Stream] = field(default_factory=dict)


class _Pairs:
    """Forwards each pair of streams that the client opens. A pair is known by its request id."""

    def __init__(self, link: Link, job: PortForwardJob, limits: Limits) -> None:
        self._link = link
        self._job = job
        self._limits = limits
        self._pairs: dict[str, _Pair] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                stream = await self._link.opened.get()
                kind, request_id = stream.headers.get("streamtype", ""), _request_id(stream)
                pair = self._pairs.get(request_id)
                if kind not in ("data", "error") or (pair is not None and kind in pair.streams):
                    await stream.reset(Reset.REFUSED_STREAM)
                elif pair is not None:
                    pair.streams[kind] = stream
                    pair.complete.set()
                else:
                    pair = self._pairs[request_id] = _Pair(streams={kind: stream})
                    group.create_task(self._serve(request_id, pair))

    async def _serve(self, request_id: str, pair: _Pair) -> None:
        try:
            async with asyncio.timeout(self._limits.creation):
                await pair.complete.wait()
        except TimeoutError:
            logger.info("port-forward request %r never had both of its streams", request_id[:80])
            for stream in pair.streams.values():
                await stream.reset()
            return
        finally:
            del self._pairs[request_id]
        data, error = pair.streams["data"], pair.streams["error"]
        try:
            with suppress(ConnectionError):
                await self._forward(data, error)
        finally:
            self._link.release(data)
            self._link.release(error)

    async def _forward(self, data: Stream, error: Stream) -> None:
        try:
            await self._job.forward(_port(data.headers.get("port", "")), data.inbox, data)
        except MoorageError as problem:
            await error.write(problem.message.encode())
            await error.close()
            await data.reset()
        else:
            await data.close()
            await error.close()


def _request_id(stream: Stream) -> str:
    """Clients that send none open the error stream first, and then the data stream of the same connection."""
    given = stream.headers.get("requestid", "")
    if given:
        return given
    return f"stream {stream.id - 2 if stream.headers.get('streamtype') == 'data' else stream.id}"


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 0 < port <= _PORT_MAX:
        raise InvalidArgument(f"{text[:20]!r} is not a port")
    return port


async def _serve_channels(
    front: Front, request: Request, subprotocol: Subprotocol, job: PortForwardJob, limits: Limits
) -> None:
    """Two channels a port: data, and errors. The first message on each is the port's number, low byte first."""
    socket = await WebSocket.accept(front, request, subprotocol.name)
    inboxes = {2 * index: Inbox(socket.gone) for index in range(len(job.ports))}
    multiplexed = ChannelSocket(socket, subprotocol, inboxes)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for index, port in enumerate(job.ports):
                data, error = (ChannelWriter(multiplexed, 2 * index + side) for side in (0, 1))
                for each in (data, error):
                    await each.write(_PORT.pack(port))
                group.create_task(_forward_channel(job, port, inboxes[2 * index], data, error))

    async def finished() -> None:
        multiplexed.refuse_all()
        await socket.close()

    await while_there(front.transport, multiplexed.run(), work(), finished, limits)


async def _forward_channel(job: PortForwardJob, port: int, source: Inbox, data: Writer, error: Writer) -> None:
    with suppress(ConnectionError):
        try:
            await job.forward(port, source, data)
        except MoorageError as problem:
            await error.write(problem.message.encode())
