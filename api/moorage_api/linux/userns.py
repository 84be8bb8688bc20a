"""User namespaces (user_namespaces(7)), for ID-mapped mounts and for pods."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from moorage_api.idmap import IdMapping
from moorage_api.linux import syscalls


@contextmanager
def user_namespace(uids: IdMapping, gids: IdMapping) -> Iterator[int]:
    """A descriptor of a new user namespace with these mappings. It lives for as long as something refers to it.

    A child makes it, since a process with more than one thread cannot; it has ended before the block runs. `OSError`.
    """
    ready, tell_ready = os.pipe2(os.O_CLOEXEC)
    hold, let_go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _wait_in_namespace(tell_ready, hold, let_go)
    os.close(tell_ready)
    os.close(hold)
    try:
        number = os.read(ready, 4)
        if number:
            raise OSError(int(number), os.strerror(int(number)), "user namespace")
        write_mappings(pid, uids, gids)
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(let_go)
        os.close(ready)
        os.waitpid(pid, 0)
    try:
        yield fd
    finally:
        os.close(fd)


def write_mappings(pid: int, uids: IdMapping, gids: IdMapping) -> None:
    """Set the mappings of the user namespace that a process has just made; they are set once. `OSError`."""
    for name, mapping in (("uid_map", uids), ("gid_map", gids)):
        path = f"/proc/{pid}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, mapping.lines.encode())
        except OSError as error:
            raise OSError(error.errno, f"id mapping {mapping}: {error.strerror}", path) from error
        finally:
            os.close(fd)


def _wait_in_namespace(tell: int, hold: int, let_go: int) -> None:
    """In the child: enter a namespace, close the pipe to say so, stay until the parent closes its own. Never returns."""
    try:
        os.close(let_go)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.close(tell)
        os.read(hold, 1)
    except OSError as error:
        os.write(tell, str(error.errno).encode())
    finally:
        os._exit(0)
