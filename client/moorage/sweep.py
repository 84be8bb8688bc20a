"""Containers that were to be removed at their end (`--rm`) and whose client was not there to do it.

A client in the foreground removes its container itself. One that ran detached, or whose client was killed, is removed
by the next client that comes across it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moorage import labels
from moorage.container import ContainerHandle
from moorage_api import native
from moorage_api.containers import Container
from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.runtime import Process, Status

if TYPE_CHECKING:
    from moorage.client import Client

_GRACE = 3 * 10**9
"""Nanoseconds for a client that is still reading what its container wrote last."""


def is_abandoned(record: Container, process: Process | None) -> bool:
    """Whether it has ended, was to be removed then, and nobody has, nor reads what it wrote last."""
    return (
        record.labels.get(labels.AUTO_REMOVE) == "true"
        and process is not None
        and process.status is Status.STOPPED
        and time.time_ns() - process.exited_at > _GRACE
        and not any(map(native.is_read, native.client_fifos(record.labels, record.id, process.stdio)))
    )


async def sweep(client: Client, abandoned: Iterable[Container]) -> None:
    """Remove them. One that someone else removes or starts meanwhile is left to them."""
    for record in abandoned:
        try:
            await ContainerHandle(client, record).remove()
        except (NotFound, FailedPrecondition):
            continue
