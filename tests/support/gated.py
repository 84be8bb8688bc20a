"""Run as a program: `gated.py SOCKET CALLS COMMAND…` becomes COMMAND, whose system calls CALLS (numbers, with commas) are
decided by whoever listens at SOCKET (seccomp(2), user notification)."""

from __future__ import annotations

import array
import ctypes
import os
import platform
import socket
import struct
import sys

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_USER_NOTIF, _ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCH = 0, 4


def program(calls: list[int]) -> bytes:
    """The filter: these calls are asked about, all others pass."""
    steps = [(_LOAD, 0, 0, _ARCH), (_JUMP_EQUAL, 1, 0, _ARCHITECTURE[platform.machine()]), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_LOAD, 0, 0, _NUMBER))
    steps += [(_JUMP_EQUAL, len(calls) - number, 0, call) for number, call in enumerate(calls)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _USER_NOTIF)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def install(calls: list[int]) -> int:
    """Install the filter for this process and all that come of it; returns the listener's descriptor."""
    steps = ctypes.create_string_buffer(program(calls))
    filter = struct.pack("=H6xQ", len(steps.raw) // 8, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SECCOMP[platform.machine()]
    fd = int(libc.syscall(number, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.create_string_buffer(filter)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return fd


def main() -> None:
    path, calls, *command = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(path)
        fd = install([int(call) for call in calls.split(",")])
        link.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
