"""What keeps pods and containers from changing while a plugin is told of all that there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Busy(Exception):
    """What was being changed was not done in time."""


class Gate:
    """Many may change something at a time (`async with gate:`), or one may look at all of it. Who looks waits for those
    that change, and keeps new ones out; so nothing is missed between what a plugin is told first and the events that
    follow.

    Inside a change nobody may begin another one, or wait for what another change may hold.
    """

    def __init__(self) -> None:
        self._changing = 0
        self._still = asyncio.Event()
        self._still.set()
        self._open = asyncio.Event()
        self._open.set()
        self._looking = asyncio.Lock()

    async def __aenter__(self) -> None:
        while not self._open.is_set():
            await self._open.wait()
        self._changing += 1
        self._still.clear()

    async def __aexit__(self, *error: object) -> None:
        self._changing -= 1
        if not self._changing:
            self._still.set()

    @asynccontextmanager
    async def look(self, patience: float) -> AsyncIterator[None]:
        """Look while nothing changes. `Busy` where a change takes longer than `patience` seconds, so that one that
        hangs delays no other for longer."""
        async with self._looking:
            self._open.clear()
            try:
                try:
                    async with asyncio.timeout(patience):
                        await self._still.wait()
                except TimeoutError:
                    raise Busy from None
                yield
            finally:
                self._open.set()
