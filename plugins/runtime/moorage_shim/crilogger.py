"""Write a container's log for another shim, as its logging program (`binary://…/containerd-shim-moorage-v2?cri-log=PATH`).

The shim passes standard output as descriptor 3, standard error as 4, and waits until 5 is closed. The program ends when both
have ended, and lives as long as the shim does: with the daemon or without it.
"""

from __future__ import annotations

import os
import select
import signal

from moorage_shim.stdio.crilog import Formatter, LogFile

_STREAMS = {3: "stdout", 4: "stderr"}
_READY = 5
_READ = 64 << 10
# What the shim's end sends to all of its group is not for the writer of what is still to come.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(path: str) -> int:
    """Copy until both streams have ended; returns the exit status. A file that was renamed is opened anew."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    file = LogFile(path)
    os.close(_READY)
    formatters = {fd: Formatter(name) for fd, name in _STREAMS.items()}
    poller = select.poll()
    for fd in formatters:
        file.use()
        poller.register(fd, select.POLLIN)
    while formatters:
        for fd, _ in poller.poll():
            data = os.read(fd, _READ)
            at = file.clock.timestamp()
            _follow(file)
            file.write(formatters[fd].feed(data, at) if data else formatters[fd].finish(at))
            if not data:
                poller.unregister(fd)
                del formatters[fd]
                file.close()
    return 0


def _follow(file: LogFile) -> None:
    """Open the file anew where it is not the one at its path any more: it was rotated."""
    try:
        there = os.stat(file.path, follow_symlinks=False)
    except FileNotFoundError:
        file.reopen()
        return
    if not file.is_open_at(there):
        file.reopen()
