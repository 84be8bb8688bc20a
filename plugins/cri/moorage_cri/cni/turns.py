"""Taking turns: plugins that compute, and wait for the same locks of the kernel, are not done sooner by doing it all at once.

Fifty pods at once cost a fifth more CPU time than two by two, with the plugins bridge and portmap. But a plugin that waits
for something else must not keep others from computing, and one that hangs must not keep anybody from anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# What is not done after so many seconds does not compute.
_TURN_SECONDS = 1.0


class Turns:
    """So many at once, for as long as they are quick. One that is not shows that there is no point in waiting: its turn is
    over, and all who wait then go ahead."""

    def __init__(self, at_once: int, turn: float = _TURN_SECONDS) -> None:
        self._free = at_once
        self._turn = turn
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, or until there is no point in it."""
        mine = await self._begin()

        def end() -> None:
            nonlocal mine
            if mine:
                mine = False
                self._pass_on()

        def slow() -> None:
            end()
            while self._call_next(has_turn=False):
                continue

        over = asyncio.get_running_loop().call_later(self._turn, slow)
        try:
            yield
        finally:
            over.cancel()
            end()

    async def _begin(self) -> bool:
        """Whether who goes ahead now has a turn."""
        if self._free:
            self._free -= 1
            return True
        called: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(called)
        try:
            return await called
        except asyncio.CancelledError:
            if not called.cancelled() and called.result():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """A turn has ended: it is the next one's."""
        if not self._call_next(has_turn=True):
            self._free += 1

    def _call_next(self, *, has_turn: bool) -> bool:
        """False where nobody waits any more."""
        while self._waiting:
            called = self._waiting.popleft()
            if not called.done():
                called.set_result(has_turn)
                return True
        return False
