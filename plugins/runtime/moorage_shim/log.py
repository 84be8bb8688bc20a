"""The shim's own log: lines on standard error, which is a file in the bundle or what containerd gave.

The logging package is not used, for the memory that it takes. A line that can't be written is lost: the log is never
worth a container.
"""

from __future__ import annotations

import contextlib
import os
import time

_FD = 2
_seen: set[str] = set()


def write(level: str, message: str) -> None:
    """One line: time, level, message."""
    seconds = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    line = f"{stamp}.{int(seconds % 1 * 1000):03d}Z {level} {message}\n"
    with contextlib.suppress(OSError):
        os.write(_FD, line.encode(errors="backslashreplace"))


def info(message: str) -> None:
    """What an operator may want to know."""
    write("info", message)


def warning(message: str) -> None:
    """What did not work, and was worked around."""
    write("warning", message)


def once(message: str) -> None:
    """A warning that a process gives once."""
    if message not in _seen:
        _seen.add(message)
        warning(message)


def failure(what: str, error: BaseException) -> None:
    """An unexpected failure, with the places that it came through."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    write("error", f"{what}: {type(error).__name__}: {error} [{' '.join(places)}]")
