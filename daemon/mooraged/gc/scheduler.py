"""When to collect: soon after something was removed, when nobody writes, and seldom enough that writers do not notice."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from moorage_api.errors import MoorageError
from mooraged.gc.collector import Stats

_log = logging.getLogger(__name__)

_LEAST_PAUSE = 0.005
"""A collection counts at least this many seconds of pause, so that fast ones do not follow each other at once."""

_QUIET_SECONDS = 0.05
_PATIENCE_SECONDS = 0.25
"""A collection waits until nothing has been written for so long, and at most so long in all: in the middle of a client's
calls the two would hold one another up, and a removal of several steps would be collected after the first."""

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """containerd's knobs. Delays in seconds.

    `pause_threshold` is the share of time that scheduled collections may make writers wait; `deletion_threshold` and
    `mutation_threshold` are numbers of deletions or changes that ask for a collection; zero switches each off.
    """

    startup_delay: float = 0.1
    schedule_delay: float = 0.0
    mutation_threshold: int = 100
    deletion_threshold: int = 0
    pause_threshold: float = 0.02


class Collects(Protocol):
    """What is scheduled."""

    def collect(self) -> Stats: ...


class Scheduler:
    """Runs collections in a thread of its own, or in that of a caller who waits for one; never two at once."""

    def __init__(self, collector: Collects, policy: Policy = Policy()) -> None:
        self._collector = collector
        self._policy = policy
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._mutations = 0
        self._deletions = 0
        self._due: float | None = None
        self._wanted: float | None = None
        self._changed = 0.0
        self._earliest = 0.0
        self._collections = 0
        self._paused = 0.0
        self._running = threading.Lock()
        self._asked = 0
        self._done = 0
        self._last = Stats()

    def start(self) -> None:
        """Start the thread; the first collection is after the startup delay, with what the last daemon left."""
        with self._state:
            self._due = time.monotonic() + self._policy.startup_delay
        self._thread = threading.Thread(target=self._run, name="gc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when no collection runs and none will."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()

    def collect(self) -> Stats:
        """Collect now, and return what the collection did; it began after this call. Callers at one time share one."""
        with self._state:
            self._asked += 1
            ticket = self._asked
        with self._running:
            if self._done < ticket:
                with self._state:
                    covered = self._asked
                    self._due = self._wanted = None
                    self._mutations = self._deletions = 0
                self._last = self._collector.collect()
                self._done = covered
                self._account(self._last)
            return self._last

    def request(self) -> None:
        """Collect soon (after the schedule delay), in the background."""
        with self._state:
            self._schedule(time.monotonic() + self._policy.schedule_delay)

    def mutated(self, removed: bool) -> None:
        """Hear of a change; `removed` means that something may have become garbage."""
        policy = self._policy
        with self._state:
            self._mutations += 1
            self._deletions += removed
            self._changed = time.monotonic()
            if policy.deletion_threshold and self._deletions >= policy.deletion_threshold:
                self._schedule(self._changed + policy.schedule_delay)
            elif removed or (policy.mutation_threshold and self._mutations >= policy.mutation_threshold):
                self._want()

    def _want(self) -> None:
        """Collect when it is quiet."""
        if self._wanted is None:
            self._wanted = self._changed
            self._state.notify_all()

    def _schedule(self, when: float) -> None:
        if self._due is None or when < self._due:
            self._due = when
            self._state.notify_all()

    def _account(self, stats: Stats) -> None:
        """Set the earliest time of the next scheduled collection, so that pauses keep to their share of time."""
        with self._state:
            self._collections += 1
            self._paused += max(stats.pause, _LEAST_PAUSE)
            share = min(max(self._policy.pause_threshold, 0.0), 0.5)
            average = self._paused / self._collections
            interval = average / share - average if share else 0.0
            self._earliest = time.monotonic() + interval

    def _run(self) -> None:
        while self._wait():
            try:
                self.collect()
            except MoorageError:
                _log.exception("garbage collection failed")
                with self._state:
                    self._schedule(time.monotonic() + _RETRY_SECONDS)

    def _wait(self) -> bool:
        """Wait until a collection is due; False when stopped."""
        with self._state:
            while not self._stopped:
                now, due = time.monotonic(), self._next()
                if due is not None and due <= now:
                    return True
                self._state.wait(None if due is None else due - now)
            return False

    def _next(self) -> float | None:
        """When a collection is due, as things stand now: each change may put one off that waits for quiet."""
        if self._wanted is None:
            return self._due
        quiet = min(self._changed + _QUIET_SECONDS, self._wanted + _PATIENCE_SECONDS)
        due = max(quiet, self._wanted + self._policy.schedule_delay, self._earliest)
        return due if self._due is None else min(due, self._due)
