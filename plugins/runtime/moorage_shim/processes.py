"""Child processes of the shim: forked, watched, reaped.

The shim is the subreaper of its containers, so it reaps strangers too. A container's first process becomes its child
when the OCI runtime that made it ends, and its pid is known only then; an exit that comes in between is kept until
somebody asks for it (`Reaper.launching`).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Protocol, TypeVar

from moorage_api.errors import DeadlineExceeded, Internal, MoorageError
from moorage_shim import log, sealed
from moorage_shim.libc import fork
from moorage_shim.loop import READ, Future, Loop, read_some
from moorage_shim.spawning import ITSELF, Program, become, become_child

T = TypeVar("T")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ERROR_MAX = 4096
_SMALL = 4096
_REAP_GRACE = 5.0
_EXIT_CODE = 49  # /proc/PID/stat: field 52, counted from zero behind the command's name


class Ended(NamedTuple):
    """How a process ended: its exit code, or 128 plus the signal; and when, in Unix nanoseconds."""

    status: int
    at: int


class Reaper:
    """Tells who waits for them of the ends of children: this process's own, which it reaps on SIGCHLD, and those that
    its keeper reaps and tells it of (`adopted`)."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: dict[int, Future[Ended]] = {}
        self._strangers: dict[int, Ended] = {}
        self._launches = 0
        # Adopted ones that are looked at here, too, by their pidfd; and those whose end was seen so, and has still to be told.
        self._looking: dict[int, int] = {}
        self._seen: set[int] = set()
        self._wakeup, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        loop.watch(self._wakeup, READ, self._on_signal)

    @property
    def fds(self) -> tuple[int, ...]:
        """Its own descriptors."""
        return self._wakeup, self._write, *self._looking.values()

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Keep the exits of unknown processes for as long as the block runs."""
        self._launches += 1
        try:
            yield
        finally:
            self._launches -= 1
            if not self._launches:
                self._strangers.clear()

    def watch(self, pid: int, *, adopted: bool = False) -> Future[Ended]:
        """The end of a child; also of one that ended during the `launching` block. An adopted one may live for days."""
        future: Future[Ended] = Future(self._loop, dormant=adopted)
        ended = self._strangers.pop(pid, None)
        if ended is not None:
            future.set(ended)
        else:
            self._waiting[pid] = future
        return future

    def look(self, pid: int) -> None:
        """Look at an adopted child that is watched for, too, rather than wait for the keeper: that has to get its turn on a
        processor first."""
        if pid not in self._waiting:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return  # the keeper has reaped it, and tells
        self._looking[pid] = fd
        self._loop.watch(fd, READ, lambda _: self._look_at(pid, fd))

    def ended(self, pid: int, ended: Ended) -> None:
        """A child has ended."""
        self._look_away(pid)
        if pid in self._seen:
            self._seen.discard(pid)
            return
        future = self._waiting.pop(pid, None)
        if future is not None:
            future.set(ended)
        elif self._launches:
            self._strangers[pid] = ended

    def _look_at(self, pid: int, fd: int) -> None:
        """It has ended. Where its status can not be seen, the keeper tells."""
        now, status = time.time_ns(), status_of(pid)
        try:
            # Not reaped even now: so that was its status, and of no other process that has got its pid.
            signal.pidfd_send_signal(fd, 0)
        except OSError:
            status = None
        self._look_away(pid)
        if status is not None and pid in self._waiting:
            self._waiting.pop(pid).set(Ended(status, now))
            self._seen.add(pid)

    def _look_away(self, pid: int) -> None:
        fd = self._looking.pop(pid, -1)
        if fd >= 0:
            self._loop.unwatch(fd)
            os.close(fd)

    def _on_signal(self, _: int) -> None:
        while read_some(self._wakeup, 4096):
            pass
        now = time.time_ns()
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.ended(pid, Ended(exit_status(raw), now))


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run. `fds` maps the child's descriptors to ours; those of 0 to 2 that it lacks are /dev/null.

    One that leaves `orphans` is a child of the keeper, and they become that after it. One that `outlives` the shim is not
    killed with it, and the keeper's as well. One that is `sealed` runs from a copy that nobody can write to, if there is
    one. `hidden` is the second cgroup hierarchy (`spawning.hide_unified_cgroup`); a `deaf` program ignores SIGPIPE; the
    `oom_score` is the program's, where it is not the shim's. A `quick` one is started without a copy of the keeper, which
    has then to see to it that it does not outlive the shim: for what takes no longer than that copy.
    """

    argv: Sequence[str]
    cwd: str = "/"
    env: Mapping[str, str] | None = None
    fds: Mapping[int, int] = field(default_factory=dict)
    orphans: bool = False
    outlives: bool = False
    sealed: bool = False
    hidden: bool = False
    deaf: bool = False
    oom_score: int | None = None
    quick: bool = False


class Child(NamedTuple):
    """A program that has been started. `gone` is done as soon as it has ended, before the keeper has told how; None where
    nobody looks."""

    pid: int
    ended: Future[Ended]
    gone: Future[None] | None = None


class Keeper(Protocol):
    """Where orphans go."""

    async def spawn(self, program: Program, fds: Sequence[int]) -> Child:
        """Start a program as a child of the keeper (`spawning.spawn`)."""


class Forker:
    """Runs programs and functions in children, each under a deadline. Without a keeper all are this process's."""

    def __init__(self, loop: Loop, reaper: Reaper) -> None:
        self.loop = loop
        self.reaper = reaper
        self.keeper: Keeper | None = None

    async def start(self, command: Command) -> tuple[Child, int]:
        """Start a program; returns it, and a descriptor to close.

        The descriptor is read for the reason why the program could not be started, and is at its end once it was.
        """
        path = find_program(command.argv[0])
        environment = None if command.env is None else dict(command.env)
        fds = dict(command.fds)
        itself = sealed.find(path) if command.sealed else -1
        if itself >= 0:
            fds[ITSELF] = itself
        flags = (command.outlives, command.hidden, command.deaf, command.oom_score, command.quick)
        program: Program = (path, tuple(command.argv), command.cwd, environment, tuple(fds), *flags)
        return await self._start(program, list(fds.values()), adopted=command.orphans or command.outlives)

    async def run(self, command: Command, timeout: float, what: str, on_start: Callable[[], None] | None = None) -> int:
        """Run a program to its end; returns its status. `DeadlineExceeded` after killing it and its process group."""
        child, errors = await self.start(command)
        try:
            if on_start is not None:
                on_start()
            status = await self._finish(child, timeout, what)
            reason = read_some(errors, _ERROR_MAX)
        finally:
            os.close(errors)
        if reason:
            raise Internal(f"{what}: {reason.decode(errors='replace')}")
        return status

    async def _finish(self, child: Child, timeout: float, what: str) -> int:
        """A program's status, from the kernel if it is there before the keeper's word: the keeper has to get its turn on a
        processor first, and often that is the one where the new process has just begun."""
        if child.gone is not None:
            await self._bounded(child.pid, child.gone, timeout, what)
            status = status_of(child.pid)
            if status is not None:
                return status
        return (await self._bounded(child.pid, child.ended, timeout, what)).status

    async def start_init(self, user: str, timeout: float, what: str) -> int:
        """Start the init of a pod, the first process of a new PID namespace; returns its pid. `user` is the file of the
        user namespace that is to own the new one; empty for that of the shim."""
        program: Program = ("", (), user, None, (), True, False, False, None, False)
        child, answer = await self._start(program, [], adopted=True)
        try:
            await self._bounded(child.pid, child.ended, timeout, what)
            text = (read_some(answer, _ERROR_MAX) or b"").decode(errors="replace")
        finally:
            os.close(answer)
        if not text.isdecimal():
            raise Internal(f"{what}: {text}")
        return int(text)

    async def _start(self, program: Program, fds: list[int], *, adopted: bool) -> tuple[Child, int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            if adopted and self.keeper is not None:
                child = await self.keeper.spawn(program, [*fds, write])
            else:
                parent = os.getpid()
                pid = fork()
                if pid == 0:
                    become(program, [*fds, write], parent)
                child = Child(pid, self.reaper.watch(pid))
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        return child, read

    async def call(self, function: Callable[[], None], timeout: float, what: str) -> None:
        """Run a function in a child, for what could block or must not change this process. Its error comes back."""
        read, write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = fork()
        if pid == 0:
            _run_function(function, write, parent)
        os.close(write)
        os.set_blocking(read, False)
        try:
            ended = await self._bounded(pid, self.reaper.watch(pid), timeout, what)
            reason = read_some(read, _ERROR_MAX)
        finally:
            os.close(read)
        if reason or ended.status:
            raise MoorageError(f"{what}: {(reason or b'the helper died').decode(errors='replace')}")

    async def _bounded(self, pid: int, future: Future[T], timeout: float, what: str) -> T:
        try:
            return await self.loop.within(future, timeout, what)
        except DeadlineExceeded:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            await self.loop.within(future, _REAP_GRACE, f"{what}: killed, and still there")
            raise


def find_program(name: str) -> str:
    """The path of a program on PATH; `FileNotFoundError`."""
    if "/" in name:
        return name
    for folder in (os.environ.get("PATH") or _PATH).split(":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(2, "executable not found on PATH", name)


def parent_of(pid: int) -> int:
    """The pid of a process's parent; 0 when the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def status_of(pid: int) -> int | None:
    """The exit status of a process that has ended and has not been reaped; None for any other, and for one whose status this
    process may not see: that reads as 0. The same right is needed to read which namespaces it had (ptrace(2))."""
    try:
        os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None
    fields = _stat(pid)
    return exit_status(int(fields[_EXIT_CODE])) if fields and fields[0] == b"Z" else None


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the command's name (proc_pid_stat(5)); none when the process is gone."""
    try:
        return read_small(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def read_small(path: str) -> bytes:
    """A file that one read gives whole; `OSError`. Without Python's buffers it takes a fifth of the time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SMALL)
    finally:
        os.close(fd)


def poll_now(fd: int, events: int) -> int:
    """What is ready on a descriptor at this moment."""
    poller = select.poll()
    poller.register(fd, events)
    ready = poller.poll(0)
    return ready[0][1] if ready else 0


def _run_function(function: Callable[[], None], errors: int, parent: int) -> NoReturn:
    try:
        become_child(parent)
        function()
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into the shim
        _report(errors, str(error))
        os._exit(1)
    os._exit(0)


def _report(errors: int, text: str) -> None:
    with suppress(OSError):
        os.write(errors, text.encode(errors="backslashreplace")[:_ERROR_MAX])


def exit_status(raw: int) -> int:
    """What wait(2) gave, as a shell has it: the exit code, or 128 plus the signal."""
    return 128 + os.WTERMSIG(raw) if os.WIFSIGNALED(raw) else os.WEXITSTATUS(raw)


def kill_quietly(pid: int, number: int) -> None:
    """Send a signal to a process that may have gone; another failure is logged."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except OSError as error:
        log.warning(f"signal {number} to process {pid}: {error.strerror}")
