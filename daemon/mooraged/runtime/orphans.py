"""Shims of ours that nobody knows: they are found by the sockets that they listen on."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mooraged.runtime.shim import kill_process, start_time

_CREDENTIALS = struct.Struct("3i")
_NAME = "moorage-"
_CONNECT_SECONDS = 1.0
_DEATH_SECONDS = 2.0


def end(folder: Path, known: Collection[str]) -> list[int]:
    """Kill whoever listens on a socket in `folder` whose address is not `known`, and remove the socket; returns the pids.

    Only processes that bear the name of our shims or of their zygote are killed.
    """
    ended = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if f"unix://{entry.path}" in known or not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                continue
            pid = _listener(entry.path)
            if pid and _name(pid).startswith(_NAME) and kill_process(pid, start_time(pid), _DEATH_SECONDS):
                ended.append(pid)
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
    return ended


def _listener(path: str) -> int:
    """The pid of the process that listens at `path` (unix(7), SO_PEERCRED); zero for nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_CONNECT_SECONDS)
        try:
            client.connect(path)
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0
    return int(_CREDENTIALS.unpack(credentials)[0])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
