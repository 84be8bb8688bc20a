"""The standard streams of one process, put together: what the OCI runtime is given, and the pumps behind it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

from moorage_api.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from moorage_api.runtime import Stdio
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Forker
from moorage_shim.stdio import console
from moorage_shim.stdio.crilog import LogFile
from moorage_shim.stdio.logger import Logger, start_logger
from moorage_shim.stdio.pump import Pump
from moorage_shim.stdio.sinks import CriSink, FifoSink, FifoSource, FileSink, NullSink, PipeSink, Sink
from moorage_shim.stdio.uri import parse_uri

# How long the report of an exit waits for output that is already there: a FIFO's reader may be slow, or gone.
_SETTLE = 2.0
# A terminal can't tell how much is left in it, only that it was closed; something else may hold it open.
_SETTLE_TERMINAL = 0.5

# How long a deletion waits for who has not opened a FIFO with output in it: longer than a busy machine takes to get to it.
_CLAIM, _CLAIM_PAUSE = 1.0, 0.02

_BINARY = ("binary", "binary-v2")
_OUTPUTS = {"stdout": 1, "stderr": 2}


class Sinks:
    """Makes sinks by URI; two streams with the same file share it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.logs: dict[str, LogFile] = {}
        self._files: dict[str, FileSink] = {}

    def make(self, uri: str, stream: str) -> Sink:
        """`InvalidArgument` for a scheme that is not known; `NotFound`, `FailedPrecondition` from opening."""
        parsed = parse_uri(uri)
        path = parsed.path
        if not uri:
            return NullSink()
        if parsed.scheme == "fifo":
            return FifoSink(self._loop, path)
        if parsed.scheme == "cri":
            return CriSink(self.logs.get(path) or self.logs.setdefault(path, LogFile(path)), stream)
        if parsed.scheme == "file":
            return self._file(path)
        raise InvalidArgument(f"unknown scheme of a standard stream: {uri!r}")

    def _file(self, path: str) -> Sink:
        try:
            return (self._files.get(path) or self._files.setdefault(path, FileSink(path))).use()
        except OSError as error:
            raise FailedPrecondition(f"standard stream {path}: {error.strerror}") from error


class Streams:
    """The streams of one process, from before the runtime is called to the process's deletion."""

    def __init__(self, forker: Forker, stdio: Stdio) -> None:
        self.stdio = stdio
        self.child_fds: dict[int, int] = {}
        self._forker = forker
        self._loop = forker.loop
        self._sinks = Sinks(self._loop)
        self._pipes: dict[str, int] = {}
        self._prepared: dict[str, tuple[int, Sink]] = {}
        self._outputs: dict[str, Pump] = {}
        self._input: Pump | None = None
        self._stdin: FifoSource | None = None
        self._stdin_target = -1
        self._logger: Logger | None = None
        self._master = -1

    def make_pipes(self, names: Iterable[str], owner: tuple[int, int]) -> None:
        """Make the pipes of these outputs alone, before it is known whether there will be a process, and which one (whose
        `stdio` is set then): nobody is to see anything of them. Only for one that is plain (`are_plain`)."""
        try:
            for name in names:
                self._pipes[name], self.child_fds[_OUTPUTS[name]] = _pipe(owner)
        except OSError:
            self._close_pipes()
            raise

    async def open(self, id: str, namespace: str, owner: tuple[int, int]) -> None:
        """Open everything that can fail; on an error nothing stays open. `owner` (uid, gid) may reopen the pipes."""
        try:
            if parse_uri(self.stdio.stdout).scheme in _BINARY:
                self._logger = await start_logger(self._forker, self.stdio.stdout, id, namespace)
            if self.stdio.stdin:
                self._stdin = FifoSource(self.stdio.stdin)
            if self.stdio.terminal:
                self._prepared["stdout"] = (-1, self._terminal_sink())
            else:
                self._open_pipes(owner)
        except OSError as error:
            await self.close()
            raise FailedPrecondition(f"standard streams: {error}") from error
        except BaseException:
            await self.close()
            raise

    def start(self) -> None:
        """The runtime has the child's ends: close ours of them, and begin to move bytes."""
        self._close_child_ends()
        for name, (source, sink) in self._prepared.items():
            self._outputs[name] = Pump(self._loop, source, sink)
        self._prepared.clear()
        if self._stdin is not None and self._stdin_target >= 0:
            self._start_input(self._stdin_target)
            self._stdin_target = -1

    def attach(self, master: int) -> None:
        """The terminal has come: begin to move bytes."""
        self._master = os.dup(master)
        (_, sink) = self._prepared.pop("stdout")
        if self._stdin is not None:
            self._start_input(os.dup(master))
        self._outputs["stdout"] = Pump(self._loop, master, sink, at_end=self._end_input)

    def wake(self) -> None:
        """Go on after a rest."""
        for pump in self._outputs.values():
            pump.wake()
        if self._input is not None:
            self._input.wake()
        if self._logger is not None:
            self._logger.wake()

    def follow(self, paths: Mapping[str, str], *, patient: bool = False) -> None:
        """Copy outputs, by name, to FIFOs from now on, too; `patient` waits for a reader that stands still.
        `FailedPrecondition` for one that does not go through here."""
        wanted = {name: path for name, path in paths.items() if path}
        for name in wanted:
            if name not in self._outputs:
                raise FailedPrecondition(f"the process's {name} goes nowhere, or to a logging program")
        for name, path in wanted.items():
            self._outputs[name].follow(path, patient=patient)

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; nothing for a process without one."""
        if self._master >= 0:
            with suppress(OSError):
                console.resize(self._master, width, height)

    def close_stdin(self) -> None:
        """The client will write no more: the process sees the end when all has been read."""
        if self._stdin is not None:
            self._stdin.end()

    def reopen_logs(self) -> None:
        """Open every CRI log anew."""
        for file in self._sinks.logs.values():
            file.reopen()

    @property
    def dropped(self) -> int:
        """Bytes of log that the disk did not take."""
        return sum(file.dropped for file in self._sinks.logs.values())

    async def settle(self) -> None:
        """Wait until the output that is there now has been written, for a bounded time."""
        terminal = self.stdio.terminal
        waits: list[Future[None]] = [pump.ended if terminal else pump.caught_up() for pump in self._outputs.values()]
        for future in waits:
            with suppress(DeadlineExceeded):
                await self._loop.within(future, _SETTLE_TERMINAL if terminal else _SETTLE, "output")

    async def claimed(self) -> None:
        """Wait until the client has come for what output is left, for a bounded time. Clients open FIFOs while they make
        other calls; of a short process one may see the end before it has opened them."""
        left = _CLAIM
        while left > 0 and any(pump.unclaimed for pump in self._outputs.values()):
            await self._loop.sleep(_CLAIM_PAUSE)
            left -= _CLAIM_PAUSE

    async def close(self) -> None:
        """Release everything. What has not been moved by now is lost."""
        self._close_pipes()
        for source, sink in self._prepared.values():
            if source >= 0:
                os.close(source)
            sink.close()
        self._prepared.clear()
        for pump in self._outputs.values():
            pump.close()
        self._end_input()
        self._close_stdin_fds()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self._logger is not None:
            logger, self._logger = self._logger, None
            await logger.stop()

    def _terminal_sink(self) -> Sink:
        if self._logger is None:
            return self._sinks.make(self.stdio.stdout, "stdout")
        os.close(self._logger.stderr)
        return PipeSink(self._logger.stdout)

    def _open_pipes(self, owner: tuple[int, int]) -> None:
        if self._stdin is not None:
            read, self._stdin_target = _pipe(owner)
            self.child_fds[0] = read
        if self._logger is not None:
            self.child_fds |= {1: self._logger.stdout, 2: self._logger.stderr}
            return
        for name in outputs(self.stdio):
            sink = self._sinks.make(getattr(self.stdio, name), name)
            if name not in self._pipes:
                self._pipes[name], self.child_fds[_OUTPUTS[name]] = _pipe(owner)
            self._prepared[name] = (self._pipes.pop(name), sink)

    def _start_input(self, target: int) -> None:
        assert self._stdin is not None
        self._input = Pump(self._loop, self._stdin.fd, PipeSink(target), at_end=self._stdin.end)
        self._stdin.fd = -1

    def _end_input(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None

    def _close_stdin_fds(self) -> None:
        if self._stdin is not None:
            self._stdin.end()
            if self._stdin.fd >= 0:
                os.close(self._stdin.fd)
            self._stdin = None
        if self._stdin_target >= 0:
            os.close(self._stdin_target)
            self._stdin_target = -1

    def _close_pipes(self) -> None:
        self._close_child_ends()
        for source in self._pipes.values():
            os.close(source)
        self._pipes.clear()

    def _close_child_ends(self) -> None:
        for fd in self.child_fds.values():
            os.close(fd)
        self.child_fds.clear()


def are_plain(stdio: Stdio) -> bool:
    """Whether there are only outputs, and pipes are all that they need (`Streams.make_pipes`)."""
    return not (stdio.terminal or stdio.stdin or parse_uri(stdio.stdout).scheme in _BINARY)


def outputs(stdio: Stdio) -> tuple[str, ...]:
    """The names of those that go somewhere."""
    return tuple(name for name in _OUTPUTS if getattr(stdio, name))


async def open_streams(
    forker: Forker, stdio: Stdio, id: str, namespace: str, owner: tuple[int, int] = (0, 0)
) -> Streams:
    """The streams of a process that is about to be made."""
    streams = Streams(forker, stdio)
    await streams.open(id, namespace, owner)
    return streams


def _pipe(owner: tuple[int, int]) -> tuple[int, int]:
    """A pipe whose ends a process of another user may open again through /proc/self/fd."""
    read, write = os.pipe2(os.O_CLOEXEC)
    if owner != (0, 0):
        os.fchown(read, *owner)
        os.fchown(write, *owner)
    return read, write
