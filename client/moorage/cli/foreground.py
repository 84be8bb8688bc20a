"""A process in the foreground: its streams are the user's, its terminal is the user's, its signals too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from moorage.cli.errors import CommandError
from moorage.cli.terminal import DetachKeys, parse_keys, raw, size_of
from moorage.container import ContainerHandle
from moorage.options import options_of
from moorage.process import ProcessHandle, Streams
from moorage.stdio import Fifos, Source, fd_sink, fd_source
from moorage_api.errors import FailedPrecondition, MoorageError, NotFound

_STDIN, _STDOUT, _STDERR = 0, 1, 2
OUTPUTS = ("stdout", "stderr")
_PROXIED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Console:
    """How a process is attached: with the user's input (whose end is that of the process's, too, or not), on a terminal,
    by which keys it is left, and which of its streams are shown."""

    interactive: bool = False
    terminal: bool = False
    detach_keys: str = ""
    proxy_signals: bool = True
    closes_input: bool = True
    shown: Collection[str] = OUTPUTS

    def check(self) -> None:
        """`CommandError` where a terminal is wanted for input that is none."""
        parse_keys(self.detach_keys)
        if self.terminal and self.interactive and not os.isatty(_STDIN):
            raise CommandError("the input is not a terminal: leave out -t, or run this on one")

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the user's terminal, if a terminal is wanted and there is one."""
        return size_of(_STDOUT) or size_of(_STDIN) if self.terminal else None

    def fifos(self) -> Fifos:
        """FIFOs for such a process."""
        return Fifos(terminal=self.terminal, stdin=self.interactive)


def console_of(
    container: ContainerHandle, detach_keys: str, *, interactive: bool, proxy_signals: bool = True
) -> Console:
    """For a container that is there: as it was made, with the user's input if it was made with one."""
    options = options_of(container.record)
    if options is None or not container.stdio.stdout:
        return Console(interactive, container.terminal, detach_keys, proxy_signals)
    wanted = interactive and options.stdin
    return Console(wanted, container.terminal, detach_keys, proxy_signals, options.stdin_once)


async def attach(process: ProcessHandle, fifos: Fifos, console: Console, *, running: bool = False) -> int | None:
    """Start a created process (or join one that is `running`) and stay with it to its end; returns its exit status, or
    None where the user detached: the process then runs on."""
    detached = asyncio.Event()
    source = _typed(DetachKeys(parse_keys(console.detach_keys)), detached) if console.interactive else None
    with contextlib.ExitStack() as stack:
        if console.terminal and os.isatty(_STDIN):
            stack.enter_context(raw(_STDIN))
        forwarder = stack.enter_context(_Forwarder(process, console))
        stdout = fd_sink(_STDOUT) if "stdout" in console.shown else _discard
        stderr = fd_sink(_STDERR) if "stderr" in console.shown else _discard
        streams = Streams(stdout, stderr, source, console.closes_input)
        if running:
            work = process.join(fifos, streams, forwarder.redraw)
        else:
            await forwarder.resize()
            work = process.run(fifos, streams, forwarder.resize)
        talking = asyncio.create_task(work, name="moorage process")
        leaving = asyncio.create_task(detached.wait(), name="moorage detach")
        try:
            await asyncio.wait([talking, leaving], return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                return talking.result().status
            fifos.keep()
            return None
        finally:
            for task in (talking, leaving):
                task.cancel()
            await asyncio.gather(talking, leaving, return_exceptions=True)


async def feed(process: ProcessHandle, fifos: Fifos) -> None:
    """Start a created process and give it the user's input, to its end; what it writes is for its log alone."""
    fed = asyncio.Event()

    async def at_end() -> None:
        await process.close_stdin()
        fed.set()

    fifos.read_into(_discard, _discard)
    await process.start()
    if not fifos.has_input:
        return
    fifos.write_from(fd_source(_STDIN), at_end)
    # One that ends before it has read all will never take the rest.
    waiting = [asyncio.create_task(work, name="moorage feed") for work in (fed.wait(), process.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _discard(data: bytes) -> None:
    """Nobody wants to see it."""


def _typed(keys: DetachKeys, detached: asyncio.Event) -> Source:
    """The user's input without the detach keys."""
    read = fd_source(_STDIN)

    async def source() -> bytes:
        while True:
            typed = await read()
            kept = keys.feed(typed)
            if kept or not typed:
                return kept
            if keys.found:
                detached.set()
                # Not the end of the input: the process is to run on as it is.
                await asyncio.Event().wait()

    return source


class _Forwarder:
    """Passes signals on to the process, and the size of the terminal when it changes. In raw mode the keys that make
    signals are input like others."""

    def __init__(self, process: ProcessHandle, console: Console) -> None:
        self._process = process
        self._console = console
        self._sending: set[asyncio.Task[None]] = set()
        self._numbers: list[int] = []

    async def resize(self) -> None:
        """Tell the process's terminal the size of the user's."""
        size = self._console.size
        if size is not None:
            # A terminal that is not there yet, or not any more, has no size to set.
            with contextlib.suppress(MoorageError):
                await self._process.resize(*size)

    async def redraw(self) -> None:
        """Tell it the size as if it had changed: a program that draws on its terminal does so again."""
        size = self._console.size
        if size is not None:
            with contextlib.suppress(MoorageError):
                await self._process.resize(size[0], size[1] + 1)
            await self.resize()

    async def _kill(self, number: int) -> None:
        # One that has ended meanwhile needs no signal.
        with contextlib.suppress(NotFound, FailedPrecondition):
            await self._process.kill(number)

    def _later(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name="moorage signal")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _PROXIED if self._console.proxy_signals else ():
            loop.add_signal_handler(number, self._on_signal, number)
            self._numbers.append(number)
        if self._console.size is not None:
            loop.add_signal_handler(signal.SIGWINCH, self._on_size)
            self._numbers.append(signal.SIGWINCH)
        return self

    def _on_signal(self, number: int) -> None:
        self._later(self._kill(number))

    def _on_size(self) -> None:
        self._later(self.resize())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.remove_signal_handler(number)
        for task in self._sending:
            task.cancel()
