"""The sockets that shims listen on."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from moorage_api.errors import AlreadyExists, InvalidArgument

SCHEME = "unix://"

_PATH_MAX = 107
_BACKLOG = 64
_PATIENCE = 0.3
_PAUSE = 0.01


def socket_path(folder: str, *names: str) -> str:
    """The path for a shim that is known by `names`; `InvalidArgument` when the folder's path is too long for it."""
    # Not at the top: the zygote has no use for it, and it brings OpenSSL.
    import hashlib

    digest = hashlib.blake2b("/".join(names).encode(), digest_size=16).hexdigest()
    path = os.path.join(folder, digest)
    if len(os.fsencode(path)) > _PATH_MAX:
        raise InvalidArgument(f"socket folder {folder} is too long: a socket's path has at most {_PATH_MAX} bytes")
    return path


def is_served(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def listen(path: str) -> socket.socket:
    """A listening socket, mode 0600, in a folder that is made with 0700. What a dead shim left there is replaced;
    `AlreadyExists` when somebody listens, and not just for the moment by which a worker outlives its keeper."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    deadline = time.monotonic() + _PATIENCE
    while is_served(path):
        if time.monotonic() > deadline:
            raise AlreadyExists(f"a shim listens on {path}")
        time.sleep(_PAUSE)
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener
