"""The blobs of one manifest, fetched side by side, while whoever needs them waits for the next one only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from moorage_api.types import Descriptor


class Fetches:
    """Tasks of one pull, one a blob. Leaving the context cancels what still runs, and waits for its end.

    Nothing starts before the first need: a snapshotter that has the lower layers already asks for none of them.
    """

    def __init__(
        self, fetch: Callable[[Descriptor], Coroutine[Any, Any, None]], descriptors: Sequence[Descriptor]
    ) -> None:
        self._fetch = fetch
        # A manifest may name a layer twice; it is fetched once.
        self._descriptors = {descriptor.digest: descriptor for descriptor in descriptors}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def need(self, descriptor: Descriptor) -> None:
        """Return when this blob is there; from now on it and all after it are fetched. Any that fails, fails this."""
        digests = list(self._descriptors)
        for digest in digests[digests.index(descriptor.digest) :]:
            self._start(digest)
        await self._settle([descriptor.digest])

    async def finish(self, skip: Container[str] = ()) -> None:
        """Return when all are there but those with a digest in `skip`."""
        digests = [digest for digest in self._descriptors if digest not in skip]
        for digest in digests:
            self._start(digest)
        await self._settle(digests)

    def _start(self, digest: str) -> None:
        if digest not in self._tasks:
            fetch = self._fetch(self._descriptors[digest])
            self._tasks[digest] = asyncio.create_task(fetch, name=f"fetch {digest}")

    async def _settle(self, digests: Sequence[str]) -> None:
        while not all(self._tasks[digest].done() for digest in digests):
            done, _ = await asyncio.wait(
                [task for task in self._tasks.values() if not task.done()], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
        for digest in digests:
            self._tasks[digest].result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
