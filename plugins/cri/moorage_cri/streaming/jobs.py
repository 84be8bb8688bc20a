"""What a token allows: one job, done over whichever protocol the client asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from moorage_cri.streaming.inbox import Inbox
from moorage_cri.streaming.remotecommand import RemoteStreams, Wanted, Writer


@dataclass(frozen=True, slots=True)
class CommandJob:
    """Exec or Attach: `run` works with the client's streams and returns an exit code. `kind` is part of the URL."""

    kind: str
    wanted: Wanted
    run: Callable[[RemoteStreams], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class PortForwardJob:
    """PortForward: `forward` carries one connection to a port. `ports` are those that the call named, if any."""

    ports: Sequence[int]
    forward: Callable[[int, Inbox, Writer], Awaitable[None]]
    kind: str = "portforward"


Job = CommandJob | PortForwardJob
