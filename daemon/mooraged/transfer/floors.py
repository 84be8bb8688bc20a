"""The layers of one image while they are unpacked side by side, each of which stands on another in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from moorage_api.errors import Unavailable
from mooraged.transfer.extraction import Layer

T = TypeVar("T")


class Floor:
    """A layer, and the one that it stands on. `task` is set before the task runs."""

    def __init__(self, layer: Layer, below: Floor | None) -> None:
        self.layer = layer
        self.there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether its snapshot was there already; known before it is extracted."""
        self.task: asyncio.Task[bool] | None = None
        self._below = below

    @property
    def running(self) -> asyncio.Task[bool]:
        """What makes its snapshot."""
        assert self.task is not None
        return self.task

    async def stands(self) -> bool:
        """Whether what it stands on was there already."""
        if self._below is None:
            return True
        await asyncio.wait([self._below.there, self._below.running], return_when=asyncio.FIRST_COMPLETED)
        return self._below.there.done() and self._below.there.result()

    async def below_made(self) -> None:
        """Return when it has something to stand on; `Unavailable` where that failed, which has an error of its own."""
        if self._below is None:
            return
        await asyncio.wait([self._below.running])
        if self._below.running.cancelled() or self._below.running.exception() is not None:
            raise Unavailable(f"the layer below {self.layer.descriptor.digest} was not unpacked")


async def all_or_none(tasks: Sequence[asyncio.Task[T]]) -> list[T]:
    """The results of all. When one fails, or the caller is cancelled, the others are cancelled and waited for; the error is
    that of the first in their order."""
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = next((task for task in tasks if not task.cancelled() and task.exception() is not None), None)
    if failed is not None:
        failed.result()
    return [task.result() for task in tasks]
