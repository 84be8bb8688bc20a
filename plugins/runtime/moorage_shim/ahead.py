"""An exec's OCI runtime, started before the exec is.

A runtime has enough to do before it comes to its process: it is forked, it sets itself up, and reads what it knows of the
container. Then it reads what process it is to start, and that is a pipe: until something is written to it no process is
there, and when it is closed instead the runtime fails and leaves nothing. So what is seen from outside is the same: before the
start nothing is opened that is the client's, and nothing runs.

It is started when the exec is added, for between that and the start lies the client's next request. And where one exec
follows another, the runtime of the next is started while the one before makes its process, which takes one processor.

A client that does not go on soon has the runtime started once more; one that waits would hold memory for nothing.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from contextlib import suppress
from typing import NamedTuple

from moorage_api.errors import MoorageError
from moorage_api.runtime import Stdio
from moorage_shim import scratch
from moorage_shim.launching import Host
from moorage_shim.loop import Future, Timer
from moorage_shim.oci import Launch, OciRuntime, read_pid
from moorage_shim.process import Process
from moorage_shim.processes import Ended
from moorage_shim.spec import exec_process
from moorage_shim.stdio.streams import Streams, are_plain, outputs

# How long a runtime waits, in seconds, and how many of a container's.
_PATIENCE = 0.5
_MOST = 4
# So many execs, each added within that time after the one before, are a sign of one more.
_ROW = 3
_RUNTIMES = frozenset({"runc", "crun"})
# Where the one is kept that has no exec yet.
_NEXT = ""

_serial = itertools.count(1)


class Form(NamedTuple):
    """What of a process its runtime is started with: the names of the outputs that go somewhere, and the OOM score."""

    outputs: tuple[str, ...]
    oom_score: int | None


class Ahead:
    """One runtime that waits for its process. `end` must be awaited for one that is not launched."""

    def __init__(self, host: Host, container_id: str, runtime: OciRuntime, form: Form, owner: tuple[int, int]) -> None:
        """Start the runtime. `OSError`."""
        self.form = form
        self._host = host
        self._id = container_id
        self._owner = owner
        self._runtime = runtime
        self._data = b""
        self._streams = Streams(host.forker, Stdio())
        self._pid_file = scratch.path(runtime.bundle, f".ahead-{next(_serial)}.pid")
        # Done when the runtime runs, or never will.
        self.started: Future[None] = Future(host.forker.loop)
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        try:
            self._streams.make_pipes(form.outputs, owner)
        except OSError:
            os.close(self._read)
            self._close_write()
            raise
        launch = Launch(self._pid_file, self._streams.child_fds, "", form.oom_score, lambda: self.started.set(None))
        self._call = host.forker.loop.spawn(self._run(launch), f"exec in {container_id}, ahead", eager=True)

    @property
    def waits(self) -> bool:
        """Whether it can still be launched."""
        return not self._call.done

    def take(self, process: Process, data: bytes) -> bool:
        """Say which process it is to start when it is launched, and what its runtime is to read; False where a pipe does not
        hold that: it is written at once, and never waited for."""
        self._streams.stdio = process.stdio
        self._data = data
        return len(data) <= fcntl.fcntl(self._write, fcntl.F_GETPIPE_SZ)

    async def launch(self, process: Process) -> Future[Ended]:
        """Let the runtime start the process; returns its end, as `launch_process` does."""
        await self.started
        process.streams = self._streams
        with self._host.forker.reaper.launching():
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
        # How many execs came one after the other, and when the last did.
        self._row = 0
        self._last = 0.0

    async def begin(self, process: Process, process_spec: bytes) -> None:
        """Have a runtime for a process that has been added, where that is of use and changes nothing else.

        Returns when it runs. Answered earlier, the daemon and the client would often get the processor on which the
        keeper waits for its turn, and the runtime takes longer than they do.
        """
        if self._runtime.name not in _RUNTIMES or not are_plain(process.stdio):
            return
        try:
            data, score = exec_process(process_spec, terminal=False)
            ahead = self._find(Form(outputs(process.stdio), score))
        except (OSError, ValueError, TypeError, AttributeError):
            # What is wrong is told when the process is to be started.
            return
        if ahead is None:
            return
        if not ahead.take(process, data):
            await ahead.end()
            return
        now = time.monotonic()
        self._row = self._row + 1 if now - self._last < _PATIENCE else 1
        self._last = now
        self._keep(process.exec_id, ahead)
        await ahead.started

    async def launch(self, process: Process) -> Future[Ended] | None:
        """Let the process run whose runtime waits, and return its end; None where none does."""
        ahead = self._take(process.exec_id)
        if ahead is None:
            return None
        if ahead.waits:
            self._host.forker.loop.soon(self._prepare, ahead.form)
            return await ahead.launch(process)
        await ahead.end()
        return None

    async def end(self, *exec_ids: str) -> None:
        """Have runtimes give up: those of these execs, or all."""
        if not exec_ids:
            self._row = 0
        for exec_id in exec_ids or list(self._waiting):
            ahead = self._take(exec_id)
            if ahead is not None:
                await ahead.end()

    def _find(self, form: Form) -> Ahead | None:
        """The runtime that waits for no process yet, or a new one. `OSError`."""
        ahead = self._take(_NEXT)
        if ahead is not None and ahead.form == form and ahead.waits:
            return ahead
        if ahead is not None:
            self._give_up(ahead)
        return self._start(form) if len(self._waiting) < _MOST else None

    def _prepare(self, form: Form) -> None:
        """Start a runtime for a process that nobody has asked for yet, where it looks as if somebody will."""
        if self._row < _ROW or self._waiting:
            return
        with suppress(OSError):  # who asks for one will be told
            self._keep(_NEXT, self._start(form))

    def _start(self, form: Form) -> Ahead:
        return Ahead(self._host, self._id, self._runtime, form, self._owner)

    def _keep(self, exec_id: str, ahead: Ahead) -> None:
        self._waiting[exec_id] = ahead, self._host.forker.loop.later(_PATIENCE, lambda: self._expire(exec_id))

    def _expire(self, exec_id: str) -> None:
        ahead = self._take(exec_id)
        if ahead is not None:
            self._give_up(ahead)

    def _give_up(self, ahead: Ahead) -> None:
        self._host.forker.loop.background(ahead.end(), f"end of a runtime for an exec in {self._id}")

    def _take(self, exec_id: str) -> Ahead | None:
        ahead, timer = self._waiting.pop(exec_id, (None, None))
        if timer is not None:
            timer.cancel()
        return ahead
