"""The init of a pod's PID namespace: a child of the shim that does nothing but reap (pid_namespaces(7))."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NoReturn

from moorage_api.linux import syscalls
from moorage_shim.processes import become_child


def start_init() -> int:
    """Fork the first process of a new PID namespace; returns its pid. It dies with the shim.

    The shim itself stays where it is: entering a PID namespace only concerns children that come later, and it is
    left again at once.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                _run()
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
    return pid


def _run() -> NoReturn:
    """Reap until killed. An init gets no signal that it has no handler for, but SIGKILL from outside."""
    try:
        become_child()
        _release_fds()
        syscalls.set_process_name("moorage-pod")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            _reap()
            signal.sigwait({signal.SIGCHLD})
    finally:
        os._exit(1)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _release_fds() -> None:
    """Hold nothing of the shim's: a pipe kept open here would never come to its end."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 1 + max(int(name) for name in os.listdir("/proc/self/fd")))
