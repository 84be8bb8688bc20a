"""The way from a HTTP request to SPDY/3.1, as Kubernetes does it."""

from __future__ import annotations

from collections.abc import Sequence

from moorage_cri.streaming.http import Front, Request

SPDY = "SPDY/3.1"

_PROTOCOL = "X-Stream-Protocol-Version"
_ACCEPTED = "X-Accepted-Stream-Protocol-Versions"
_BAD_REQUEST = 400
_FORBIDDEN = 403


async def accept_spdy(front: Front, request: Request, protocols: Sequence[str]) -> str | None:
    """Agree on the first of the client's stream protocols that is among ours, and switch to SPDY.

    None when the client was refused: it asked for no upgrade, or for nothing that is known.
    """
    if not request.upgrades_to(SPDY):
        await front.refuse(_BAD_REQUEST, f"the request must ask for an upgrade to {SPDY} or to a WebSocket")
        return None
    offered = request.values(_PROTOCOL.lower())
    if not offered:
        await front.refuse(_BAD_REQUEST, f"the header {_PROTOCOL} is missing")
        return None
    chosen = next((name for name in offered if name in protocols), None)
    if chosen is None:
        ours = ", ".join(protocols)
        text = f"none of the stream protocols {', '.join(offered)} is known: there are {ours}"
        await front.refuse(_FORBIDDEN, text, [(_ACCEPTED, name) for name in protocols])
        return None
    await front.switch([("Connection", "Upgrade"), ("Upgrade", SPDY), (_PROTOCOL, chosen)])
    return chosen
