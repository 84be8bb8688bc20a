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
    pid, let_go = _inhabitant()
    try:
        write_mappings(pid, uids, gids)
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(let_go)
        os.waitpid(pid, 0)
    try:
        yield fd
    finally:
        os.close(fd)


def _inhabitant() -> tuple[int, int]:
    """The pid of a child in a new user namespace, and the descriptor that it lives for."""
    hold, let_go = os.pipe2(os.O_CLOEXEC)
    try:
        pid = syscalls.clone(syscalls.CLONE_NEWUSER)
        if pid == 0:
            os.close(let_go)
            os.read(hold, 1)
            os._exit(0)
    except OSError:
        os.close(let_go)
        raise
    finally:
        os.close(hold)
    return pid, let_go


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
