"""Plugins that the daemon starts itself: found in a folder, connected by a socket that they inherit."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moorage_api.errors import InvalidArgument, Unavailable

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9_.+-]+")
INDEX = re.compile(r"[0-9]{2}")
"""What plugins may be called."""

# The descriptor at which a plugin finds its socket; what the environment says counts.
_SOCKET = 3
# How long a plugin may take to end by itself once its socket is closed, in seconds.
_END_SECONDS = 2.0
# Python ignores these; a program must not inherit that.
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Installed:
    """A program in the folder, with its configuration."""

    path: str
    index: str
    name: str
    config: str


def installed(folder: str, config_folder: str) -> list[Installed]:
    """The executable files of a folder, by name. One that is not named `index-name`, or whose configuration cannot be
    read, is left out, which is logged."""
    found = []
    for path in sorted(Path(folder).iterdir()) if os.path.isdir(folder) else ():
        if path.is_file() and os.access(path, os.X_OK):
            try:
                found.append(_installed(path, config_folder))
            except InvalidArgument as error:
                logger.error("%s", error)
    return found


def _installed(path: Path, config_folder: str) -> Installed:
    index, dash, name = path.name.partition("-")
    if not dash or INDEX.fullmatch(index) is None or NAME.fullmatch(name) is None:
        raise InvalidArgument(f"NRI plugin {path} is not named after an index of two digits and a name")
    return Installed(str(path), index, name, _configuration(config_folder, index, name))


def _configuration(folder: str, index: str, name: str) -> str:
    for file in (f"{index}-{name}.conf", f"{name}.conf"):
        try:
            return Path(folder, file).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{folder}/{file} cannot be read: {error}") from error
    return ""


class Process:
    """A plugin's process. What it writes to its standard error goes where the daemon's goes."""

    def __init__(self, plugin: Installed) -> None:
        """Start it; `ours` is the daemon's end of its socket. `Unavailable`."""
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ours.setblocking(False)
        environment = {
            "NRI_PLUGIN_NAME": plugin.name,
            "NRI_PLUGIN_IDX": plugin.index,
            "NRI_PLUGIN_SOCKET": str(_SOCKET),
        }
        with theirs, open(os.devnull, "r+b") as null:
            actions = [(os.POSIX_SPAWN_DUP2, null.fileno(), number) for number in (0, 1)]
            actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET))
            try:
                self._pid = os.posix_spawn(
                    plugin.path,
                    [plugin.path],
                    environment,
                    file_actions=actions,
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_SIGNALS,
                )
            except OSError as error:
                self.ours.close()
                raise Unavailable(f"NRI plugin {plugin.path} cannot be started: {error.strerror}") from error
        self._handle = os.pidfd_open(self._pid)

    async def end(self) -> None:
        """Give it a moment to end, then kill it with all that it has left in its process group, and reap it."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._handle, ended.set)
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGTERM)
            await self._wait(ended)
            # It is not reaped yet, so the number cannot belong to another group.
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            if not await self._wait(ended):
                logger.error("NRI plugin process %d was killed and is still there: the kernel holds it", self._pid)
        finally:
            loop.remove_reader(self._handle)
            self._reap()

    def _reap(self) -> None:
        os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOHANG)
        os.close(self._handle)

    async def _wait(self, ended: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(_END_SECONDS):
                await ended.wait()
        except TimeoutError:
            return False
        return True
