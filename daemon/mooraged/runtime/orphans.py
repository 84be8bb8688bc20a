"""Shims of ours that nobody knows: they are found by the sockets that they listen on."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from mooraged.runtime.shim import kill_process, start_time

_CREDENTIALS = struct.Struct("3i")
_NAME = "moorage-"
_CONNECT_SECONDS = 1.0
_DEATH_SECONDS = 2.0


def sockets(folder: Path) -> list[str]:
    """The paths of all sockets in `folder`."""
    with suppress(FileNotFoundError):
        return [entry.path for entry in os.scandir(folder) if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)]
    return []


def listener(path: str) -> int:
    """The pid of the process that began to listen at `path` (unix(7), SO_PEERCRED); zero for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(path)
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0
    return int(_CREDENTIALS.unpack(credentials)[0])


def end(path: str, pid: int) -> bool:
    """Kill the process if it bears the name of our shims or of their zygote, and remove its socket."""
    killed = pid > 1 and _name(pid).startswith(_NAME) and kill_process(pid, start_time(pid), _DEATH_SECONDS)
    with suppress(FileNotFoundError):
        os.unlink(path)
    return killed


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
