"""The worker processes, as the daemon sees them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from moorage_api.differ import Arriving, Progress
from moorage_api.errors import Cancelled, Unavailable, from_code
from mooraged.differ.messages import Apply, Compare, Done, Extracting, Failed, Grown, Output, receive_reply, send

logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "mooraged.differ.worker")
_STOP_PATIENCE = 2.0


class WorkerPool:
    """At most `size` worker processes, started when they are needed, and one ahead, and kept. Thread-safe.

    A process is started afresh, not forked: the daemon has threads, and locks that a fork would copy as they are. A
    caller waits while all are busy. A worker that dies takes its request with it, and nothing else.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._stopped = False

    def call(
        self,
        request: Apply | Compare,
        output: Callable[[bytes], object] | None = None,
        *,
        progress: Progress | None = None,
        arriving: Arriving | None = None,
    ) -> Done:
        """Have a worker do `request`; bytes that it makes go to `output`, in the calling thread.

        Errors are those of the worker's `Failed`; `Unavailable` when it died, `Cancelled` when the pool was stopped. When
        `output` or `progress` raises, the worker is ended and the error passed on.
        """
        with self._free:
            worker = self._take()
            healthy = False
            try:
                reply = worker.call(request, _Listener(output, progress), arriving)
                healthy = True
            finally:
                self._give_back(worker, healthy)
        if isinstance(reply, Done):
            return reply
        if reply.trace:
            logger.warning("worker: %s\n%s", reply.message, reply.trace)
        raise from_code(reply.code, reply.message)

    def stop(self) -> None:
        """End all workers, busy ones too: their callers get `Cancelled`. Calls that follow do as well."""
        with self._lock:
            self._stopped = True
            idle, busy = self._idle, list(self._busy)
            self._idle = []
        for worker in idle:
            worker.release()
        for worker in busy:
            # Its pipes are closed by its caller, who is reading from them now.
            worker.kill()

    def pids(self) -> list[int]:
        """The process ids of the workers there are."""
        with self._lock:
            return [worker.pid for worker in (*self._idle, *self._busy)]

    def _take(self) -> _Worker:
        with self._lock:
            if self._stopped:
                raise Cancelled("the daemon is stopping")
            worker = self._idle_worker() or _Worker()
            self._busy.add(worker)
            if not self._idle and len(self._busy) < self._size:
                # One ahead: layers come in numbers, and a process takes a while until it can work.
                with suppress(Unavailable):
                    self._idle.append(_Worker())
            return worker

    def _idle_worker(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.release()
        return None

    def _give_back(self, worker: _Worker, healthy: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            stopped = self._stopped
            if healthy and not stopped:
                self._idle.append(worker)
                return
        worker.release()
        if stopped and not healthy:
            raise Cancelled("the daemon is stopping")


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who hears what a worker says before its answer."""

    output: Callable[[bytes], object] | None
    progress: Progress | None

    def hear(self, reply: Output | Extracting) -> None:
        if isinstance(reply, Output):
            if self.output is not None:
                self.output(reply.data)
        elif self.progress is not None:
            self.progress(reply.size)


class _Worker:
    """One process, with a request at a time."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        except OSError as error:
            raise Unavailable(f"a worker process could not be started: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: Apply | Compare, listener: _Listener, arriving: Arriving | None) -> Done | Failed:
        """`Unavailable` when the process dies meanwhile."""
        stdin, stdout = self._pipes()
        try:
            send(stdin, request)
            if arriving is not None:
                arriving.follow(self._tell_growth)
            while (reply := receive_reply(stdout)) is not None:
                if isinstance(reply, Done | Failed):
                    return reply
                listener.hear(reply)
        except BrokenPipeError:
            pass
        finally:
            if arriving is not None:
                arriving.unfollow()
        raise Unavailable(f"the worker process {self.pid} {self._how_it_ended()}; the call may be tried again")

    def _tell_growth(self, size: int) -> None:
        # A worker that is gone is noticed by the thread that waits for its reply.
        with suppress(BrokenPipeError):
            send(self._pipes()[0], Grown(size))

    def kill(self) -> None:
        """End the process, whatever it does, and its helper, which is of its group. Twice is harmless."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_PATIENCE)

    def release(self) -> None:
        """End the process, and close the pipes to it."""
        self.kill()
        for pipe in self._pipes():
            with suppress(OSError):
                pipe.close()

    def _pipes(self) -> tuple[BinaryIO, BinaryIO]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        return stdin, stdout  # type: ignore[return-value]

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
