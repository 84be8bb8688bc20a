"""What the handlers of all services share: a namespace's stores, called in the daemon's threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from moorage_api.core import Core, Namespaced
from moorage_api.rpc import Call

T = TypeVar("T")


class Closable(Protocol):
    """A reader or a writer."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Handlers:
    """The base of services whose calls belong to a namespace."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def _run(self, call: Call, operation: Callable[[Namespaced], T]) -> T:
        """Do `operation` on the caller's namespace, under the caller's lease, in a thread."""
        namespace, lease = call.namespace, call.lease
        return await self._core.run(lambda: operation(self._core.namespaced(namespace, lease)))

    @asynccontextmanager
    async def _opened(self, call: Call, opening: Callable[[Namespaced], C]) -> AsyncIterator[C]:
        """What `opening` gives, closed at the end; also where the caller vanishes while it is being opened."""
        future = asyncio.ensure_future(self._run(call, opening))
        try:
            opened = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_late)
            raise
        try:
            yield opened
        finally:
            # Shielded: a second cancellation would take the closing out of the queue of the threads.
            await asyncio.shield(self._core.run(opened.close))


def _close_late(future: asyncio.Future[C]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
