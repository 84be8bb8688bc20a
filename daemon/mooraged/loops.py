"""Event loops beside the daemon's own, each in a thread of its own: for work whose turns would keep calls waiting."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from moorage_api.errors import Unavailable
from mooraged.futures import settle_soon, until_it_ends

P = ParamSpec("P")
T = TypeVar("T")

_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


class LoopThread:
    """A thread that runs an event loop. Its methods are for the threads of other loops."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._stopped = asyncio.Event()
        self._stopping = False
        _loops.add(self._loop)
        threading.Thread(target=self._serve, name=name).start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` comes to on the thread's loop, in the caller's context. A cancelled caller cancels it, and waits for
        its end. `Unavailable` where the thread is stopped, before or meanwhile."""
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work, context=context))
            tasks[0].add_done_callback(end)

        def end(task: asyncio.Task[T]) -> None:
            error = _stopping() if task.cancelled() else task.exception()
            settle_soon(ended, None if error else task.result(), error)

        def cancel_there() -> None:
            tasks[0].cancel()  # it is there: calls of the loop keep their order

        def cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed, and with it all has ended
                self._loop.call_soon_threadsafe(cancel_there)

        with self._lock:
            if self._stopping:
                work.close()
                raise _stopping()
            self._loop.call_soon_threadsafe(begin)
        return await until_it_ends(ended, cancel)

    def stop(self) -> None:
        """Take no more work, cancel what is under way, and end the thread after it. Nobody waits for that here."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._stopped.set)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._wait())

    async def _wait(self) -> None:
        await self._stopped.wait()


async def on_loop(
    loop: asyncio.AbstractEventLoop, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """What `call` comes to, which is made and awaited on another thread's loop. A cancelled caller cancels it."""

    async def work() -> T:
        return await call(*args, **kwargs)

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))


def all_tasks() -> set[asyncio.Task[Any]]:
    """The tasks of the calling loop, and of all loops here. Call it on a loop."""
    return asyncio.all_tasks().union(*(asyncio.all_tasks(loop) for loop in list(_loops)))


def _stopping() -> Unavailable:
    return Unavailable("the daemon is stopping")
