"""The zygote: a process that forks keepers (`main` is called with its descriptor and the command of the workers).

It has loaded only what a keeper needs, nothing above Python's built-in modules, and fork takes a millisecond; what
neither side changes is shared. It keeps one spare keeper ahead, which holds the inherited Unix seqpacket socket. The
first worker of that reads a request from it, and says on a pipe that the spare is taken. Beside itself the zygote starts the
workshop (`workshop`), where keepers get their workers. Its end is the daemon's or the workshop's; the shims live on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import posix
import select
import time
from _struct import Struct

from moorage_shim import libc
from moorage_shim.holes import fill_holes
from moorage_shim.keeper import Keeper
from moorage_shim.pages import find_code
from moorage_shim.spawning import set_oom_score
from moorage_shim.warmup import warm_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

TAKEN = b"t"
"""A spare that dies by itself says nothing."""
ASK = b"w"
"""What a keeper sends to the workshop, with the socket that the worker is to have."""

SPARE_CONTROL, SPARE_PIPE = 10, 11
"""The numbers of a spare's descriptors in its worker."""

_NAME = b"moorage-zygote"
_SPARE = b"moorage-spare"
# A shim is the last but the daemon to be killed for want of memory; the kubelet's convention for runtimes.
_OOM_SCORE = -998
_FD = Struct("=i")
# A spare that dies by itself is replaced, not too often.
_PAUSE = 0.1
_PATIENCE = 0.8
_MOMENT = 0.005
_CHILDREN_MAX = 64 << 10


def main(arguments: Sequence[str]) -> int:
    """Fork spares until the daemon goes away. The first argument is the descriptor, the others the command."""
    control = int(arguments[0])
    command = list(arguments[1:])
    posix.set_inheritable(control, False)
    libc.set_name(_NAME)
    ways = Ways(command)
    prepare()
    ways.open()
    code = find_code()
    warm_up(code)
    ways.reap_others()
    # A shim that ends is reaped by the kernel.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    fill_holes()
    while True:
        read, write = posix.pipe2(posix.O_CLOEXEC)
        spare = libc.fork()
        if spare == 0:
            posix.close(read)
            _keep(ways, control, write, code)
        posix.close(write)
        if not _wait(read, control, ways):
            posix.close(control)
            ways.close(spare)
            return 0
        if not posix.read(read, 1):
            time.sleep(_PAUSE)
        posix.close(read)


class Ways:
    """How keepers get their workers: a fork of the workshop; and where that is dead or hangs, a program of their own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._workshop, self._theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._pid = 0
        self.fd = self._workshop.fileno()

    def open(self) -> None:
        """Start the workshop, which lives as long as anybody may ask it."""
        self._pid = self._run("serve", self._theirs.fileno())
        self._theirs.close()
        self._workshop.setblocking(False)

    def reap_others(self) -> None:
        """Wait for the ends of all children but the workshop: they would be taken for shims."""
        while _children() - {self._pid}:
            posix.waitpid(-1, 0)

    def close(self, spare: int) -> None:
        """Give up the workshop. If there are no shims, end it, and wait for its end and the spare's, so that nothing is left
        when the zygote has ended."""
        self._workshop.close()
        children = _children()
        if children - {self._pid, spare}:
            return
        if self._pid in children:
            posix.kill(self._pid, _signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE
        while _children() and time.monotonic() < deadline:
            time.sleep(_MOMENT)

    def ask(self, channel: int) -> int:
        """`OSError` when the workshop is dead, or takes nothing any more."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(channel))]
        self._workshop.sendmsg([ASK], rights)
        return 0

    def run(self, channel: int) -> int:
        """Slow: Python begins anew."""
        return self._run("one", channel)

    def _run(self, what: str, fd: int) -> int:
        pid = libc.fork()
        if pid:
            return pid
        try:
            posix.setpgid(0, 0)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            posix.set_inheritable(fd, True)
            posix.execve(self._command[0], [*self._command, what, str(fd)], posix.environ)
        finally:
            posix._exit(127)


def prepare() -> None:
    """What a process does before it forks keepers, and they inherit: no input and output, no current folder, and the
    signals that end other processes ignored, since the containers need it: a shim ends when it is told to, or by
    SIGKILL. Errors still go where the daemon's do."""
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 0)
    posix.dup2(null, 1)
    posix.close(null)
    posix.chdir("/")
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_IGN)
    try:
        set_oom_score(_OOM_SCORE)
    except OSError:
        # Not allowed without CAP_SYS_RESOURCE: then shims are as likely to be killed as others.
        return


def keep(keeper: Keeper) -> NoReturn:
    """In the child of a fork: be a keeper to the end, whom nobody's death concerns."""
    try:
        posix.dup2(1, 2)
        libc.become_subreaper()
        posix._exit(keeper.run())
    finally:
        posix._exit(1)


def _keep(ways: Ways, control: int, zygote: int, code: list[libc.Part]) -> NoReturn:
    # No session of its own: `spawning.become_child` tells why.
    posix.setpgid(0, 0)
    libc.set_name(_SPARE)
    # What a spare has in its worker: the socket of requests, and the pipe to say that it is taken.
    held = [(control, SPARE_CONTROL, select.POLLIN), (zygote, SPARE_PIPE, 0)]
    keep(Keeper([ways.ask, ways.run], b"", held, code))


def _children() -> set[int]:
    """The pids of this process's; empty where the kernel does not tell."""
    try:
        fd = posix.open(f"/proc/self/task/{posix.getpid()}/children", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return set()
    try:
        return {int(pid) for pid in posix.read(fd, _CHILDREN_MAX).split()}
    finally:
        posix.close(fd)


def _wait(read: int, control: int, ways: Ways) -> bool:
    """Until the spare is taken or dead. False at the end of the daemon, or of the workshop."""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(control, 0)
    poll.register(ways.fd, 0)
    return all(fd == read for fd, _ in poll.poll())
