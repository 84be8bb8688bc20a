"""Exec and Attach on one connection, over SPDY or in the channels of a WebSocket."""

from __future__ import annotations

from moorage_api.errors import InvalidArgument, MoorageError
from moorage_api.streaming import channels
from moorage_cri.streaming import status
from moorage_cri.streaming.http import Front, Request
from moorage_cri.streaming.jobs import CommandJob
from moorage_cri.streaming.lifetime import Limits, while_there
from moorage_cri.streaming.link import Link
from moorage_cri.streaming.remotecommand import SPDY_PROTOCOLS, RemoteStreams, open_channels, open_spdy
from moorage_cri.streaming.upgrade import accept_spdy
from moorage_cri.streaming.websocket import WebSocket


async def serve_command(front: Front, request: Request, job: CommandJob, limits: Limits) -> None:
    """Do the job with whoever sent the request. Cancelled, with all that it started, when the client goes."""
    if request.upgrades_to("websocket"):
        await _serve_channels(front, request, job, limits)
    else:
        await _serve_spdy(front, request, job, limits)


async def _serve_spdy(front: Front, request: Request, job: CommandJob, limits: Limits) -> None:
    protocol = await accept_spdy(front, request, tuple(SPDY_PROTOCOLS))
    if protocol is None:
        return
    version = SPDY_PROTOCOLS[protocol]
    link = Link(front.transport, front.hand_over())

    async def work() -> None:
        await _run(job, await open_spdy(link, job.wanted, version, limits.creation))

    async def finished() -> None:
        link.refuse_all()

    await while_there(front.transport, link.run(), work(), finished, limits)


async def _serve_channels(front: Front, request: Request, job: CommandJob, limits: Limits) -> None:
    subprotocol = channels.negotiate(request.values("sec-websocket-protocol"))
    if subprotocol is None:
        raise InvalidArgument("none of the subprotocols is known")
    socket = await WebSocket.accept(front, request, subprotocol.name)
    multiplexed, streams = await open_channels(socket, subprotocol, job.wanted)

    async def finished() -> None:
        multiplexed.refuse_all()
        await socket.close()

    await while_there(front.transport, multiplexed.run(), _run(job, streams), finished, limits)


async def _run(job: CommandJob, streams: RemoteStreams) -> None:
    """The client learns by the status how it ended."""
    try:
        result = status.ended(await job.run(streams), streams.version)
    except MoorageError as error:
        result = status.failed(error, streams.version)
    await streams.finish(result)
