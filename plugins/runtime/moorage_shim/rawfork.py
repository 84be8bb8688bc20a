"""fork(2) and nothing else, and the one other call that a keeper makes.

`os.fork` lets Python and its modules prepare the child, threading above all, and that alone writes to a hundred pages
of either side. In processes with one thread, which zygote and keeper are, nothing needs it: the child goes on as the
same thread with the same locks. Not for a process that has, or had, another thread.
"""

from __future__ import annotations

import ctypes

# With the lock of the interpreter held, unlike `ctypes.CDLL`: the child has it too, and nobody to take it back from.
_libc = ctypes.PyDLL(None, use_errno=True)
_fork = _libc.fork
_prctl = _libc.prctl
_SET_CHILD_SUBREAPER = 36


def fork() -> int:
    """0 in the child, the child's pid in the parent; `OSError`."""
    pid: int = _fork()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "fork")
    return pid


def become_subreaper() -> None:
    """Be the parent of the orphans among this process's descendants (PR_SET_CHILD_SUBREAPER); not inherited."""
    if _prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")
