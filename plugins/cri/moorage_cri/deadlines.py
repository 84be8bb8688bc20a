"""Deadlines of calls: the caller's own, within what is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from moorage_api.errors import DeadlineExceeded
from moorage_api.rpc import Call


@asynccontextmanager
async def deadline(call: Call, longest: float, what: str) -> AsyncIterator[None]:
    """Let the block take until the caller's deadline, and at most `longest` seconds; then `DeadlineExceeded`.

    The server cancels a call whose caller has gone; a caller without a deadline must not wait for ever, either.
    """
    remaining = call.remaining
    seconds = longest if remaining is None else min(remaining, longest)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"{what} took longer than {seconds:.1f} s") from error
