"""One daemon on a root, one on an address: whoever comes second is told, and the first is left alone."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from moorage_api.errors import FailedPrecondition


@contextmanager
def exclusive(path: str, what: str) -> Iterator[None]:
    """Hold the lock file `path` (made if need be; it stays). `FailedPrecondition`, with the holder's pid, where it is held."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"cannot use {what}: {error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            raise FailedPrecondition(f"{what} is in use by another daemon (pid {pid})") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def check_socket(address: str) -> None:
    """Make sure that nobody answers on `address`, and remove what a dead daemon left. `FailedPrecondition` otherwise."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(address)
            return
        except OSError as error:
            raise FailedPrecondition(f"cannot use {address}: {error}") from error
    raise FailedPrecondition(f"another server answers on {address}")
