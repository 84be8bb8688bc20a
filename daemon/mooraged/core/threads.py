"""Threads for calls that may wait, called from event loops.

As `run_in_executor` on a `ThreadPoolExecutor`, at half the cost (15 µs for a call that does nothing, against 30; in a daemon
with other things to do, several times as much). There, a queue wakes a second thread with each call, only for it to find
nothing and to have held up the first, and the answer passes through two futures. Here a call is handed to one thread, the
one that was idle last, whose memory is nearest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from mooraged.futures import ThreadFuture, settle_soon

T = TypeVar("T")


class _Job(Generic[T]):
    """A call, and the future of its result on the loop that asked for it."""

    __slots__ = ("_call", "future")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.future: ThreadFuture[T] = ThreadFuture()

    def perform(self) -> tuple[T | None, BaseException | None]:
        """Make the call: its result, or what it raised."""
        try:
            return self._call(), None
        except BaseException as error:  # noqa: BLE001 (raised again where the future is awaited)
            return None, error

    def tell(self, result: T | None, error: BaseException | None) -> None:
        """Pass the result on, if that is wanted here, and tell the loop how the call ended."""
        first = None
        # Not kept: what delivers has the future, too.
        deliver, self.future.deliver = self.future.deliver, None
        if error is None and deliver is not None:
            try:
                first = deliver(cast(T, result))
            except Exception as failure:  # noqa: BLE001 (as above)
                error = failure
        settle_soon(self.future, result, error, first)

    def cancel(self) -> None:
        """Have the future cancelled: the call is not made."""
        with suppress(RuntimeError):  # the loop is closed
            self.future.get_loop().call_soon_threadsafe(self.future.cancel)


class _Worker:
    """One thread, which is handed its jobs one at a time; None ends it."""

    def __init__(self) -> None:
        self._job: _Job[Any] | None = None
        self._handed = threading.Lock()
        self._handed.acquire()

    def hand(self, job: _Job[Any] | None) -> None:
        """Have the thread do `job` next. Only while it is idle."""
        self._job = job
        self._handed.release()

    def take(self) -> _Job[Any] | None:
        """Wait for the next job."""
        self._handed.acquire()
        job, self._job = self._job, None
        return job


class Threads:
    """At most `size` threads, started when they are needed, and kept."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job[Any]] = deque()
        self._started = 0
        self._closed = False

    def run(self, call: Callable[[], T]) -> ThreadFuture[T]:
        """Have a thread make the call; on an event loop. Cancelled before a thread is free for it, it is not made."""
        job = _Job(call)
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads are closed")
            if self._idle:
                self._idle.pop().hand(job)
            elif self._started < self._size:
                self._start(job)
            else:
                self._waiting.append(job)
        return job.future

    def close(self) -> None:
        """Take no more calls, and cancel those that wait for a thread. Those under way go on to their end, and the threads with
        them. Twice is harmless."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.cancel()
        for worker in idle:
            worker.hand(None)

    def _start(self, job: _Job[Any]) -> None:
        worker = _Worker()
        worker.hand(job)
        threading.Thread(target=self._work, args=(worker,), name=f"{self._name}_{self._started}").start()
        self._started += 1

    def _work(self, worker: _Worker) -> None:
        job = worker.take()
        while job is not None:
            done, outcome = job, job.perform()
            # Idle before the loop hears of it, so that the next call finds this thread.
            job, stays = self._next(worker)
            done.tell(*outcome)
            # Results may be large, and the next call far off.
            del done, outcome
            if job is None and stays:
                job = worker.take()

    def _next(self, worker: _Worker) -> tuple[_Job[Any] | None, bool]:
        """A job that waits for a thread; without one, whether the worker is among the idle ones now, or is to end."""
        with self._lock:
            while self._waiting:
                job = self._waiting.popleft()
                if not job.future.cancelled():
                    return job, True
            if not self._closed:
                self._idle.append(worker)
            return None, not self._closed
