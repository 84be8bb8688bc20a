"""The shim's event loop: epoll, timers and coroutines in one thread.

It is small on purpose. A shim waits nearly all its life, so what counts is memory: asyncio alone costs more than all of
a shim. The rules are asyncio's: callbacks never block, coroutines `await` futures, a task that fails is seen by who
awaits it, and a failure that nobody awaits is logged.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

from moorage_api.errors import Cancelled, DeadlineExceeded
from moorage_shim import log

T = TypeVar("T")

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
URGENT = select.EPOLLPRI

# Events taken from epoll at once: bounds how long one round of callbacks lasts.
_BATCH = 64


class Future(Generic[T]):
    """A result that comes later. Awaiting it from several coroutines is fine.

    One that is `dormant` may take days: a loop all of whose tasks wait for such has nothing to do.
    """

    __slots__ = ("_callbacks", "_error", "_loop", "_value", "done", "dormant")

    def __init__(self, loop: Loop, *, dormant: bool = False) -> None:
        self._loop = loop
        self.dormant = dormant
        self._callbacks: list[Callable[[Future[T]], object]] = []
        self._value: T | None = None
        self._error: BaseException | None = None
        self.done = False

    def set(self, value: T) -> None:
        """Give the result; does nothing when there is one."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Give an error as the result; does nothing when there is a result."""
        if not self.done:
            self._error = error
            self._finish()

    def result(self) -> T:
        """The result, or its error raised. Only when `done`."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    @property
    def error(self) -> BaseException | None:
        """The error that it ended with."""
        return self._error

    def then(self, callback: Callable[[Future[T]], object]) -> None:
        """Call back in a later round of the loop when there is a result."""
        if self.done:
            self._loop.soon(callback, self)
        else:
            self._callbacks.append(callback)

    def __getstate__(self) -> tuple[object, ...]:
        """All but who waits: tasks are started anew after a rest."""
        return self._loop, self.dormant, self.done, self._value, self._error

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._loop, self.dormant, self.done, self._value, self._error = state
        self._callbacks = []

    def _finish(self) -> None:
        self.done = True
        for callback in self._callbacks:
            self._loop.soon(callback, self)
        self._callbacks.clear()

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.done:
            yield self
        return self.result()


class Task(Future[T]):
    """A running coroutine; its result is the coroutine's."""

    __slots__ = ("_awaited", "_coroutine", "_waits", "name")

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, T], name: str, *, eager: bool = False) -> None:
        super().__init__(loop)
        self.name = name
        self._coroutine = coroutine
        self._awaited = False
        self._waits: Future[Any] | None = None
        loop.tasks.add(self)
        if eager:
            self._step(None)
        else:
            loop.soon(self._step, None)

    @property
    def rests(self) -> bool:
        """Whether it waits for what may take days."""
        return self._waits is not None and self._waits.dormant

    def cancel(self, reason: str = "cancelled") -> None:
        """Raise `Cancelled` where the coroutine waits, now; its cleaning up may take longer. Not for one's own task."""
        if not self.done:
            self._waits = None
            self._run(self._coroutine.throw, Cancelled(reason))

    def then(self, callback: Callable[[Future[T]], object]) -> None:
        self._awaited = True
        super().then(callback)

    def __await__(self) -> Generator[Future[T], None, T]:
        self._awaited = True
        return (yield from super().__await__())

    def _step(self, waited: Future[Any] | None) -> None:
        if not self.done and waited is self._waits:
            self._run(self._coroutine.send, None)

    def _finish(self) -> None:
        self._loop.tasks.discard(self)
        super()._finish()

    def _run(self, advance: Callable[[Any], Any], argument: BaseException | None) -> None:
        try:
            self._waits = advance(argument)
        except StopIteration as stop:
            self._waits = None
            self.set(stop.value)
        except Exception as error:  # noqa: BLE001 - every failure belongs to who awaits the task
            self._waits = None
            if not self._awaited and not isinstance(error, Cancelled):
                log.failure(f"{self.name} failed", error)
            self.fail(error)
        else:
            cast("Future[Any]", self._waits).then(self._step)


class Timer:
    """A call in the future; `cancel` makes it not happen."""

    __slots__ = ("cancelled", "function")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] | None = function
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.function = None


class Lock:
    """Mutual exclusion between coroutines, first come, first served."""

    __slots__ = ("_held", "_loop", "_queue")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held = False
        self._queue: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._held:
            turn: Future[None] = Future(self._loop)
            self._queue.append(turn)
            try:
                await turn
            except Cancelled:
                if turn.done:
                    self._release()
                else:
                    self._queue.remove(turn)
                raise
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._queue:
            self._queue.popleft().set(None)
        else:
            self._held = False


class Loop:
    """One thread's epoll, timers and tasks.

    When nothing has happened for `patience` seconds and all tasks rest, `on_rest` is called, if it is set.
    """

    def __init__(self) -> None:
        self.tasks: set[Task[Any]] = set()
        self.patience = 0.3
        self.on_rest: Callable[[], object] | None = None
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[int, Callable[[int], object]]] = {}
        self._ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    @property
    def fd(self) -> int:
        """The descriptor of epoll itself."""
        return self._epoll.fileno()

    @property
    def watched(self) -> dict[int, int]:
        """What is watched, and for which events."""
        return {fd: events for fd, (events, _) in self._handlers.items()}

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Call in the next round."""
        self._ready.append((function, args))

    def later(self, delay: float, function: Callable[[], object]) -> Timer:
        """Call after `delay` seconds."""
        timer = Timer(function)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), timer))
        return timer

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str, *, eager: bool = False) -> Task[T]:
        """Run a coroutine beside the caller; a failure that nobody awaits is logged under `name`. An `eager` one runs at
        once up to where it first waits."""
        return Task(self, coroutine, name, eager=eager)

    def background(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Run a coroutine that nobody awaits; a failure is logged under `name`."""
        _ = Task(self, coroutine, name)

    def future(self) -> Future[Any]:
        """A new future of this loop."""
        return Future(self)

    def watch(self, fd: int, events: int, handler: Callable[[int], object]) -> None:
        """Call `handler(events)` whenever `fd` is ready (level-triggered); errors and hang-ups always count.

        `PermissionError` for what epoll can't watch (a regular file).
        """
        known = self._handlers.get(fd)
        if known is None:
            self._epoll.register(fd, events)
        elif known[0] != events:
            self._epoll.modify(fd, events)
        self._handlers[fd] = (events, handler)

    def unwatch(self, fd: int) -> None:
        """Watch `fd` no longer; call it before closing. Fine when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def ready(self, fd: int, events: int, seconds: float, what: str) -> None:
        """Wait until `fd` is ready; `DeadlineExceeded` naming `what` when it is not in time. One waiter a descriptor."""
        future: Future[None] = Future(self)
        self.watch(fd, events, lambda _: future.set(None))
        try:
            await self.within(future, seconds, what)
        finally:
            self.unwatch(fd)

    async def sleep(self, delay: float) -> None:
        """Wait for `delay` seconds."""
        future: Future[None] = Future(self)
        timer = self.later(delay, lambda: future.set(None))
        try:
            await future
        finally:
            timer.cancel()

    async def within(self, future: Future[T], seconds: float, what: str) -> T:
        """The future's result, or `DeadlineExceeded` naming `what`. The future itself is not touched."""
        if not future.done:
            waiter: Future[None] = Future(self)
            timer = self.later(seconds, lambda: waiter.set(None))
            future.then(lambda _: waiter.set(None))
            try:
                await waiter
            finally:
                timer.cancel()
            if not future.done:
                raise DeadlineExceeded(f"{what}: no answer within {seconds:g} s")
        return future.result()

    def run(self, until: Future[T]) -> T:
        """Run until the future has a result; returns it."""
        while not until.done:
            self._round()
        return until.result()

    def _round(self) -> None:
        timeout = self._timeout()
        resting = timeout < 0 and self.on_rest is not None and all(task.rests for task in self.tasks)
        ready = self._epoll.poll(self.patience if resting else timeout, _BATCH)
        if resting and not ready and self.on_rest is not None:
            self.on_rest()
        for fd, events in ready:
            entry = self._handlers.get(fd)
            if entry is not None:
                self._call(entry[1], (events,))
        self._run_timers()
        for _ in range(len(self._ready)):
            function, args = self._ready.popleft()
            self._call(function, args)

    def _timeout(self) -> float:
        if self._ready:
            return 0
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.function is not None:
                self._call(timer.function, ())

    @staticmethod
    def _call(function: Callable[..., object], args: tuple[object, ...]) -> None:
        """A callback's failure is a defect, and must not take the containers' guardian down."""
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001
            log.failure("a callback failed", error)


def read_some(fd: int, size: int) -> bytes | None:
    """A read from a non-blocking descriptor: None when there is nothing now, empty at the end.

    A terminal whose other side is closed gives `EIO`, a reset connection `ECONNRESET`: both are the end.
    """
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
    except OSError:
        return b""
