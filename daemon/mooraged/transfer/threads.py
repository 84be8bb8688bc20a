"""A pool of threads for the stores, which are synchronous, and locks by key for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Generic, ParamSpec, TypeVar

from moorage_api.errors import Unavailable
from mooraged.futures import until_it_ends
from mooraged.yielding import give_way

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Threads:
    """A pool of the transfer's own, so that a layer that takes minutes to apply keeps no other service waiting. Its threads
    give way to the event loop, which waits for a processor a quarter less than where they do not."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="transfer", initializer=give_way)

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a thread. A cancelled caller waits for its end, which cannot be hurried: what it was working
        on can be cleaned up only then. `Unavailable` when the pool is closed."""
        return await until_it_ends(self._submit(call, *args, **kwargs))

    async def obtain(self, call: Callable[[], T], undo: Callable[[T], object]) -> T:
        """As `run`, for a result that someone must give back: if the caller is cancelled meanwhile, `undo(result)` is
        called in its place."""
        future = self._submit(call)
        try:
            return await until_it_ends(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                await until_it_ends(self._submit(undo, future.result()))
            raise

    def _submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        try:
            return asyncio.wrap_future(self._pool.submit(call, *args, **kwargs))
        except RuntimeError:
            raise Unavailable("the daemon is stopping") from None

    def close(self) -> None:
        """Take no more calls; those that run go on to their end, and nobody waits for a long one."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class KeyedLocks(Generic[K]):
    """A lock per key, that exists while someone holds or wants it. Waiters are served in order."""

    def __init__(self) -> None:
        self._locks: dict[K, tuple[asyncio.Lock, int]] = {}

    def locked(self, key: K) -> bool:
        """Whether `hold` would wait."""
        return key in self._locks

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
