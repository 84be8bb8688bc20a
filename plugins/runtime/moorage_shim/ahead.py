"""An exec's OCI runtime, started when the exec is added rather than when it is started.

Between the two lies the client's next request. A runtime has enough to do in that time: it is forked, it sets itself up, and
reads what it knows of the container. Then it reads what process it is to start, and that is a pipe: until something is written
to it no process is there, and when it is closed instead the runtime fails and leaves nothing. So what is seen from outside
is the same: before the start nothing is opened that is the client's, and nothing runs.

A client that does not go on soon has the runtime started once more; one that waits would hold memory for nothing.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from moorage_api.errors import MoorageError
from moorage_shim import scratch
from moorage_shim.launching import Host
from moorage_shim.loop import Future, Timer
from moorage_shim.oci import Launch, OciRuntime, read_pid
from moorage_shim.process import Process
from moorage_shim.processes import Ended
from moorage_shim.spec import exec_process
from moorage_shim.stdio.streams import Streams, are_plain

# How long a runtime waits, in seconds, and how many of a container's.
_PATIENCE = 0.5
_MOST = 4
_RUNTIMES = frozenset({"runc", "crun"})


class Ahead:
    """One runtime that waits for its process. `end` must be awaited for one that is not launched."""

    def __init__(self, host: Host, container_id: str, runtime: OciRuntime, process: Process, owner: tuple[int, int]):
        self._host = host
        self._id = container_id
        self._owner = owner
        self._runtime = runtime
        self._streams = Streams(host.forker, process.stdio)
        self._pid_file = scratch.path(runtime.bundle, f".exec-{process.exec_id}.pid")
        # Done when the runtime runs, or never will.
        self.started: Future[None] = Future(host.forker.loop)

    def begin(self, process: Process, process_spec: bytes) -> None:
        """Start the runtime. `OSError`, or `ValueError` for a process that can not be run in this way."""
        self._data, score = exec_process(process_spec, terminal=False)
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        try:
            # Written at once, and never waited for.
            if len(self._data) > fcntl.fcntl(self._write, fcntl.F_GETPIPE_SZ):
                raise ValueError("a pipe does not hold so large a process")
            self._streams.make_pipes(self._owner)
        except (OSError, ValueError):
            os.close(self._read)
            self._close_write()
            raise
        launch = Launch(self._pid_file, self._streams.child_fds, "", score, lambda: self.started.set(None))
        name = f"exec {process.exec_id} of {self._id}, ahead"
        self._call = self._host.forker.loop.spawn(self._run(launch), name, eager=True)

    @property
    def waits(self) -> bool:
        """Whether it can still be launched."""
        return not self._call.done

    async def launch(self, process: Process) -> Future[Ended]:
        """Let the runtime start the process; returns its end, as `launch_process` does."""
        await self.started
        process.streams = self._streams
        try:
            await self._streams.open(process.exec_id, self._host.namespace, self._owner)
            os.write(self._write, self._data)
            self._close_write()
            launched = await self._call
            if isinstance(launched, Exception):
                raise launched
            self._streams.start()
            process.pid, future = launched
            return future
        except BaseException:
            process.pid = 0
            self._close_write()
            await self._call
            await process.release()
            raise

    async def end(self) -> None:
        """Have the runtime give up. Harmless where it has failed already."""
        self._close_write()
        await self._call
        await self._streams.close()

    async def _run(self, launch: Launch) -> tuple[int, Future[Ended]] | Exception:
        """An error is a result: nobody may ask for it."""
        reaper = self._host.forker.reaper
        try:
            with reaper.launching():
                await self._runtime.exec(self._id, f"/proc/{os.getpid()}/fd/{self._read}", launch)
                pid = read_pid(self._pid_file)
                end = reaper.watch(pid, adopted=True)
                reaper.look(pid)
                return pid, end
        except (MoorageError, OSError) as error:
            return error
        finally:
            self.started.set(None)
            os.close(self._read)
            with suppress(FileNotFoundError):
                os.unlink(self._pid_file)

    def _close_write(self) -> None:
        if self._write >= 0:
            os.close(self._write)
            self._write = -1


class Aheads:
    """Those of one container, by exec. There are none in a shim that rests."""

    def __init__(self, host: Host, container_id: str, runtime: OciRuntime, owner: tuple[int, int]) -> None:
        self._host = host
        self._id = container_id
        self._runtime = runtime
        self._owner = owner
        self._waiting: dict[str, tuple[Ahead, Timer]] = {}

    async def begin(self, process: Process, process_spec: bytes) -> None:
        """Start a runtime for a process that has been added, where that is of use and changes nothing else.

        Returns when it runs. Answered earlier, the daemon and the client would often get the processor on which the
        keeper waits for its turn, and the runtime takes longer than they do.
        """
        if self._runtime.name not in _RUNTIMES or len(self._waiting) >= _MOST or not are_plain(process.stdio):
            return
        ahead = Ahead(self._host, self._id, self._runtime, process, self._owner)
        try:
            ahead.begin(process, process_spec)
        except (OSError, ValueError, TypeError, AttributeError):
            # What is wrong is told when the process is to be started.
            return
        timer = self._host.forker.loop.later(_PATIENCE, lambda: self._expire(process.exec_id))
        self._waiting[process.exec_id] = ahead, timer
        await ahead.started

    async def launch(self, process: Process) -> Future[Ended] | None:
        """Let the process run whose runtime waits, and return its end; None where none does."""
        ahead = self._take(process.exec_id)
        if ahead is None:
            return None
        if ahead.waits:
            return await ahead.launch(process)
        await ahead.end()
        return None

    async def end(self, *exec_ids: str) -> None:
        """Have runtimes give up: those of these execs, or all."""
        for exec_id in exec_ids or list(self._waiting):
            ahead = self._take(exec_id)
            if ahead is not None:
                await ahead.end()

    def _expire(self, exec_id: str) -> None:
        ahead = self._take(exec_id)
        if ahead is not None:
            self._host.forker.loop.background(ahead.end(), f"end of exec {exec_id}, ahead")

    def _take(self, exec_id: str) -> Ahead | None:
        ahead, timer = self._waiting.pop(exec_id, (None, None))
        if timer is not None:
            timer.cancel()
        return ahead
