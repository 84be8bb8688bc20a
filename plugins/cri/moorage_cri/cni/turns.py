"""Taking turns: plugins that compute, and wait for the same locks of the kernel, are not done sooner by doing it all at once.

Fifty pods at once cost a third more CPU time than one after the other, with the plugins bridge and portmap. But a plugin that
waits for something else must not keep others from computing, and one that hangs must not keep anybody from anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# What is not done after so many seconds does not compute: its turn is over.
_TURN_SECONDS = 0.5
# Nobody waits longer for a turn.
_PATIENCE_SECONDS = 2.0


class Turns:
    """So many at once, for as long as they are quick."""

    def __init__(self, at_once: int, turn: float = _TURN_SECONDS, patience: float = _PATIENCE_SECONDS) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._turn = turn
        self._patience = patience

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and go ahead without one where that takes too long."""
        mine = False

        def end() -> None:
            nonlocal mine
            if mine:
                mine = False
                self._free.release()

        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                mine = await self._free.acquire()
        over = asyncio.get_running_loop().call_later(self._turn, end)
        try:
            yield
        finally:
            over.cancel()
            end()
