"""A process's streams through FIFOs, as containerd's clients do it.

The client makes the FIFOs in a folder of its own and opens its ends first, so that the shim never waits; when the shim
has closed its ends, everything has been read. Nothing here uses threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from moorage_api import native
from moorage_api.runtime import Stdio

Sink = Callable[[bytes], Awaitable[None]]
"""Takes what a process wrote; may wait, and the process then waits too once its pipe is full."""
Source = Callable[[], Awaitable[bytes]]
"""Gives what a process is to read; empty at the end."""

_CHUNK = 65536
# What a pipe that is said to be writable takes without blocking (POSIX, PIPE_BUF).
_ATOMIC = 4096
_FOLDERS = ("/run", "/tmp")


def runtime_folder() -> str:
    """Where short-lived files go: XDG_RUNTIME_DIR, /run, or /tmp."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), *_FOLDERS):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return tempfile.gettempdir()


FOLDER_PREFIX = "moorage-io-"


class Fifos:
    """The FIFOs of one client of a process: a context manager that removes them, and ends what reads and writes them.

    With `inside`, the folder of a container, they are further readers of what it writes anyway (`native.ATTACHED`), and
    `input` is the FIFO that it reads, empty for none; else they are the process's own streams.
    """

    def __init__(self, *, terminal: bool = False, stdin: bool = False, inside: str = "", input: str = "") -> None:
        prefix = native.ATTACHED if inside else FOLDER_PREFIX
        self.folder = tempfile.mkdtemp(prefix=prefix, dir=inside or runtime_folder())
        names = ["stdout"] + (["stdin"] if stdin else []) + ([] if terminal else ["stderr"])
        self._fds: dict[str, int] = {}
        self._pumps: list[asyncio.Task[None]] = []
        self._input: asyncio.Task[None] | None = None
        self._inside = inside
        self._kept = False
        self._count = 0
        self._sinking = 0
        paths = {name: os.path.join(self.folder, name) for name in names}
        try:
            for name, path in paths.items():
                os.mkfifo(path, 0o600)
                # O_RDWR on the input: it can be opened, and written, before the shim has come.
                flags = os.O_RDWR if name == "stdin" else os.O_RDONLY
                self._fds[name] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
            if input:
                self._fds["stdin"] = os.open(input, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self.stdio = Stdio(paths.get("stdin", ""), paths["stdout"], paths.get("stderr", ""), terminal)

    def read_into(self, stdout: Sink, stderr: Sink | None = None) -> None:
        """Begin to give what the process writes to these; call it once its task or exec has been created."""
        for name, sink in (("stdout", stdout), ("stderr", stderr)):
            if sink is not None and name in self._fds:
                self._pumps.append(asyncio.create_task(self._read(name, sink), name=f"moorage {name}"))

    @property
    def has_input(self) -> bool:
        """Whether what is written here reaches the process."""
        return "stdin" in self._fds

    def write_from(self, source: Source, at_end: Callable[[], Awaitable[None]]) -> None:
        """Begin to write what `source` gives; at its end the FIFO is closed and `at_end` awaited (it must tell the
        daemon, whose shim keeps the FIFO open for the next client)."""
        self._input = asyncio.create_task(self._write(source, at_end), name="moorage stdin")

    async def broken(self) -> None:
        """Raise what a sink raises, when it does; never returns."""
        waiting = set(self._pumps)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        await asyncio.Event().wait()

    async def drained(self, patience: float = 2.0) -> None:
        """Return when the process and its shim have closed their ends and all has been handed on; or when, the process
        being gone, a child of it keeps them open and has written nothing for `patience` seconds. What a sink raised
        is raised here."""
        seen = -1
        while self._pumps and (self._sinking or seen != self._count):
            seen = self._count
            await asyncio.wait(self._pumps, timeout=patience)
            if all(pump.done() for pump in self._pumps):
                break
        for pump in self._pumps:
            if pump.done():
                pump.result()

    async def _read(self, name: str, sink: Sink) -> None:
        fd = self._fds[name]
        while True:
            await ready(fd, select.POLLIN)
            try:
                data = os.read(fd, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            self._count += len(data)
            self._sinking += 1
            await sink(data)
            self._sinking -= 1

    async def _write(self, source: Source, at_end: Callable[[], Awaitable[None]]) -> None:
        fd = self._fds["stdin"]
        while data := await source():
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(fd, view) :]
                except BlockingIOError:
                    await ready(fd, select.POLLOUT)
        self._close_fd("stdin")
        await at_end()

    def _close_fd(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (*self._pumps, self._input) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.close()

    def keep(self) -> None:
        """Leave the process's own FIFOs where they are for the next client: it goes on without this one."""
        self._kept = not self._inside

    def close(self) -> None:
        """Close all ends and remove the folder. Closing twice is harmless."""
        for name in list(self._fds):
            self._close_fd(name)
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)


def remove_kept(stdio: Stdio) -> None:
    """Remove the FIFOs of a process that its client left; nothing else is touched."""
    folder = os.path.dirname(stdio.stdout)
    if os.path.basename(folder).startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


async def ready(fd: int, events: int) -> None:
    """Return when `fd` can be read (POLLIN) or written (POLLOUT); at once for a file, which always can."""
    poll = select.poll()
    poll.register(fd, events)
    if poll.poll(0):
        return
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    add, remove = (
        (loop.add_reader, loop.remove_reader) if events == select.POLLIN else (loop.add_writer, loop.remove_writer)
    )

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    add(fd, wake)
    try:
        await waiter
    finally:
        remove(fd)


def fd_sink(fd: int) -> Sink:
    """Write to a descriptor that other processes may share (so it stays blocking), without blocking the loop."""

    async def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            await ready(fd, select.POLLOUT)
            view = view[os.write(fd, view[:_ATOMIC]) :]

    return sink


def fd_source(fd: int) -> Source:
    """Read from a descriptor without blocking the loop; a terminal that has hung up is at its end."""

    async def source() -> bytes:
        await ready(fd, select.POLLIN)
        with contextlib.suppress(OSError):
            return os.read(fd, _CHUNK)
        return b""

    return source


def collector(into: bytearray) -> Sink:
    """A sink that keeps all."""

    async def sink(data: bytes) -> None:
        into.extend(data)

    return sink
