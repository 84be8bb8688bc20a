"""The init of a pod's PID namespace: a child of the shim that does nothing but reap (pid_namespaces(7))."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import NoReturn

from moorage_api.linux import syscalls
from moorage_shim.cgroups import read_file
from moorage_shim.namespaces import become_root
from moorage_shim.processes import become_child, kill_quietly

_NAME = "moorage-pod"
_FILE = "pod.pid"


def start_init(user: str = "") -> int:
    """Fork the first process of a new PID namespace; returns its pid. It lives until `end_init`.

    `user` is the file of the user namespace that owns the new one; empty for that of the shim.

    The shim itself stays where it is: entering a PID namespace only concerns children that come later, and it is
    left again at once.
    """
    if user:
        return _start_in(user)
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


def write_init(path: str, pid: int) -> None:
    """Note in a pod's folder which process its init is, for who must end it when the shim is dead."""
    with open(os.path.join(path, _FILE), "w", encoding="ascii") as file:
        file.write(str(pid))


def end_init(path: str) -> None:
    """Kill the init of the pod in that folder, and with it all in its namespace; nothing where there is none.

    Its name is compared: the pid may be another process's by now.
    """
    file = os.path.join(path, _FILE)
    pid = read_file(file)
    if pid and read_file(f"/proc/{pid}/comm").strip() == _NAME:
        kill_quietly(int(pid), signal.SIGKILL)
    with suppress(FileNotFoundError):
        os.unlink(file)


def _start_in(user: str) -> int:
    """A user namespace is not left again, so another process enters it, and leaves the init to the shim."""
    read, write = os.pipe2(os.O_CLOEXEC)
    namespace = os.open(user, os.O_RDONLY | os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
            syscalls.unshare(syscalls.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                _run(mapped=True)
            os.write(write, f"0 {pid}".encode())
        except OSError as error:
            os.write(write, f"{error.errno} {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(namespace)
    os.close(write)
    try:
        number, _, text = os.read(read, 4096).decode().partition(" ")
    finally:
        os.close(read)
        os.waitpid(middle, 0)
    if number != "0":
        raise OSError(int(number or errno.ECHILD), f"the pod's init: {text}")
    return int(text)


def _run(*, mapped: bool = False) -> NoReturn:
    """Reap until killed. An init gets no signal that it has no handler for, but SIGKILL from outside. One in a user
    namespace (`mapped`) is that namespace's root."""
    try:
        become_child(outlives=True)
        _release_fds()
        if mapped:
            become_root()
        syscalls.set_process_name(_NAME)
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
