"""Work in the background of the event loop, kept until it is done and cancelled when the daemon stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)


class Jobs:
    """A set of running tasks. What fails without anybody waiting for it is logged."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, job: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start `job`; it is kept here."""
        task = asyncio.create_task(job, name=name)
        self._keep(task)
        return task

    def start(self, job: Coroutine[Any, Any, object], name: str) -> None:
        """As `spawn`, for work that nobody waits for."""
        task = asyncio.create_task(job, name=name)
        self._keep(task)

    async def finish(self, job: Coroutine[Any, Any, T], name: str) -> T:
        """Run `job` to its end even if the caller is cancelled meanwhile: for work that must not stop half-way."""
        return await asyncio.shield(self.spawn(job, name))

    async def close(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("%s failed: %s", task.get_name(), task.exception())
