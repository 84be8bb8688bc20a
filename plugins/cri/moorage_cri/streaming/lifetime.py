"""How long a connection is served: until the work is done, the client has gone, or nothing has passed for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from moorage_api.errors import MoorageError
from moorage_cri.concurrency import finish
from moorage_cri.streaming.transport import Transport

logger = logging.getLogger(__name__)

# A client that has all it wanted closes the connection; one that does not is left.
_LINGER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds: without a byte in either direction; until the client has opened its streams."""

    idle: float
    creation: float


async def while_there(
    transport: Transport,
    reading: Coroutine[Any, Any, None],
    work: Coroutine[Any, Any, None],
    finished: Callable[[], Awaitable[None]],
    limits: Limits,
) -> None:
    """Run `reading`, which ends when the client goes, and `work`, which is cancelled then. When the work has ended,
    `finished` says so to the client, which has a moment to go by itself: what it has not read yet would else be lost.

    Failures of the work are raised; those of the connection mean that the client has gone.
    """
    tasks = [asyncio.ensure_future(each) for each in (work, reading, transport.idle(limits.idle))]
    working, reader, idle = tasks
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if idle.done():
            logger.info("a streaming connection was idle for %g s and is closed", limits.idle)
        if working.done():
            with suppress(ConnectionError):
                working.result()
                await finished()
                await asyncio.wait([reader], timeout=_LINGER_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        results = await finish(asyncio.gather(*tasks, return_exceptions=True))
        _report(results[1])


def _report(end: BaseException | None) -> None:
    """Why a client's side ended matters only where it broke a protocol."""
    if isinstance(end, MoorageError):
        logger.info("a streaming client broke the protocol: %s", end)
    elif isinstance(end, Exception) and not isinstance(end, ConnectionError | OSError):
        logger.error("reading from a streaming client failed", exc_info=end)
