"""Kill a process at its n-th system call that changes something, before the call is carried out (ptrace(2)).

The work runs in a child of a child: the one in between is the tracer, so that nobody else's children are waited for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import traceback
import warnings
from collections.abc import Callable
from enum import Enum

_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _FORKS, _EXEC, _EXITKILL = 1, 2 | 4 | 8, 16, 1 << 20
_WALL = 0x40000000
_INFO = struct.Struct("=B3xIQQQ6Q")
_ENTRY = 1
_CREATING = os.O_CREAT | os.O_TRUNC

# Numbers: x86_64's table, and the generic one, which arm64 and riscv64 have (asm-generic/unistd.h).
_X86_64 = {
    *(1, 18, 20, 40, 74, 75, 76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 165, 166, 188, 189, 190),
    *(197, 198, 199, 235, 258, 259, 260, 261, 263, 264, 265, 266, 268, 277, 280, 285, 296, 306, 316, 326, 328),
}
_GENERIC = {
    *(
        5,
        6,
        7,
        14,
        15,
        16,
        33,
        34,
        35,
        36,
        37,
        38,
        39,
        40,
        45,
        46,
        47,
        52,
        53,
        54,
        55,
        64,
        66,
        68,
        70,
        71,
        82,
        83,
        84,
        88,
    ),
    *(267, 276, 285, 287),
}
# Mounting through the new interface, and changing modes, have one number everywhere.
_EVERYWHERE = {428, 429, 432, 442, 452}
# Number: which argument holds the flags of an opening call.
_OPENING = {"x86_64": {2: 1, 257: 2}}


class End(Enum):
    """How the work ended."""

    KILLED = "killed"
    DONE = "done"
    FAILED = "failed"


class CannotTrace(Exception):
    """This process may not trace its children, or not on this machine."""


def run_killed(work: Callable[[], Callable[[], object]], at: int) -> End:
    """Call `work` in a child, then what it returns, and kill that at its `at`-th change, counting from 1.

    `FAILED`: it raised; the traceback is on standard error. `CannotTrace`.
    """
    tracer = _fork(lambda: _trace(work, at))
    _, status = os.waitpid(tracer, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in _CODES:
        raise CannotTrace(f"the tracer ended with {code}: ptrace is not permitted here")
    return _CODES[code]


_CODES = {0: End.DONE, 10: End.KILLED, 11: End.FAILED}


def _fork(work: Callable[[], int]) -> int:
    with warnings.catch_warnings():
        # The children run this code and the work's alone, whatever threads there are here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = work()
    except BaseException:  # noqa: BLE001 - a forked child must not go on in its parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _trace(work: Callable[[], Callable[[], object]], at: int) -> int:
    traced = _fork(lambda: _traced(work))
    _, status = os.waitpid(traced, _WALL)
    if not os.WIFSTOPPED(status):
        return 11
    _ptrace(_SETOPTIONS, traced, _SYSGOOD | _FORKS | _EXEC | _EXITKILL)
    _ptrace(_SYSCALL, traced, 0)
    changes = 0
    known = {traced}
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if thread == traced:
                return _verdict(os.waitstatus_to_exitcode(status))
            continue
        number = os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80:
            changes += _changes(thread)
            if changes == at:
                os.kill(traced, signal.SIGKILL)
                changes += 1
            number = 0
        elif status >> 16 or (number == signal.SIGSTOP and thread not in known):
            number = 0  # an event, or the first stop of a new thread: not a signal of anybody
        known.add(thread)
        _ptrace(_SYSCALL, thread, number)


def _verdict(code: int) -> int:
    return {0: 0, -signal.SIGKILL: 10}.get(code, 11)


def _traced(work: Callable[[], Callable[[], object]]) -> int:
    call = work()
    _ptrace(_TRACEME, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    call()
    return 0


def _changes(thread: int) -> bool:
    """Whether the thread is about to make a call that changes something."""
    buffer = ctypes.create_string_buffer(_INFO.size)
    if _libc.ptrace(_SYSCALL_INFO, thread, ctypes.c_void_p(_INFO.size), buffer) < 0:
        return False
    kind, _, _, _, number, *arguments = _INFO.unpack(buffer.raw)
    if kind != _ENTRY:
        return False
    machine = platform.machine()
    flags_at = _OPENING.get(machine, {56: 2}).get(number)
    if flags_at is not None:
        return bool(arguments[flags_at] & _CREATING)
    return number in _EVERYWHERE or number in (_X86_64 if machine == "x86_64" else _GENERIC)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int, data: int) -> None:
    """Errors of a thread that died meanwhile are not errors: its end is waited for next."""
    if _libc.ptrace(request, pid, None, data) < 0 and (number := ctypes.get_errno()) != errno.ESRCH:
        raise OSError(number, os.strerror(number))
