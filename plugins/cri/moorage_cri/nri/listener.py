"""The socket to which plugins connect."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

from moorage_api.errors import FailedPrecondition, Unavailable


def listen(path: str) -> socket.socket:
    """Make the socket, in place of one that an earlier run has left. Its folder is made where it is missing; only root
    may connect.

    `FailedPrecondition` where another process listens there: its plugins are not to be taken from it. `Unavailable`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _refuse_used(path)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        remove(path)
        # The mode of the descriptor becomes that of the file.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        listener.listen()
    except FailedPrecondition:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise Unavailable(f"NRI socket {path} cannot be made: {error.strerror or error}") from error
    return listener


def remove(path: str) -> None:
    """Remove the socket; one that is not there does not matter. Anything else at its place is left alone."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _refuse_used(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # A full backlog is a listener, too.
        if probe.connect_ex(path) in (0, errno.EAGAIN):
            raise FailedPrecondition(f"another process listens on the NRI socket {path}: configure one for each")
