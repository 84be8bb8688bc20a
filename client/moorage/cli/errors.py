"""How errors are told: one line on standard error, what to do about it, and docker's exit codes. Never a traceback."""

from __future__ import annotations

import errno
import socket

from moorage_api.errors import (
    AlreadyExists,
    Code,
    MoorageError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

FAILURE = 1
DAEMON_ERROR = 125
CANNOT_INVOKE = 126
NOT_FOUND = 127
INTERRUPTED = 130

_MISSING = ("executable file not found", "no such file or directory", "not found in $path")
_DENIED = ("permission denied", "is a directory", "exec format error", "open executable")


class CommandError(MoorageError):
    """An error of the command line itself, with its exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: MoorageError, address: str) -> str:
    """The message, and what to do about it where that is known."""
    if isinstance(error, Unavailable):
        from moorage.session import GONE

        reason = unreachable(address)
        if reason:
            return reason
        if error.message == GONE:
            return f"cannot reach the daemon at {address}: it closed the connection"
    if isinstance(error, Unimplemented):
        # What gRPC itself says of a method that nobody serves is of no use to anyone.
        reason = "it does not offer this service" if error.message == "Method not found!" else error.message
        return f"the daemon at {address} cannot do this: {reason}"
    hints = {
        Unauthenticated: "the registry wants credentials that it was not given, or did not take",
        PermissionDenied: "the registry does not let these credentials do it",
    }
    hint = hints.get(type(error), "")
    return f"{error.message} ({hint})" if hint and hint not in error.message else error.message


def unreachable(address: str) -> str:
    """Why no daemon answers at `address`, with what to do; empty where one does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError as error:
            return _unreachable(error, address)
    return ""


def _unreachable(error: OSError, address: str) -> str:
    text = f"cannot reach the daemon at {address}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{text}: permission denied; run this as root, or give your group the socket"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{text}: there is no such socket. Is mooraged running? Start it, or name its socket with --address"
    if error.errno == errno.ECONNREFUSED:
        return f"{text}: nobody answers there any more. Is mooraged running? Start it again"
    return f"{text}: {error.strerror or error}. Is mooraged running?"


def start_failure(error: MoorageError) -> CommandError:
    """The error of a process that could not be started, with docker's exit code for it: 127 where the command was not
    found, 126 where it cannot be run, else 125."""
    message = error.message.lower()
    if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED) or isinstance(error, AlreadyExists):
        return CommandError(error.message, DAEMON_ERROR)
    if any(sign in message for sign in _DENIED):
        return CommandError(error.message, CANNOT_INVOKE)
    if any(sign in message for sign in _MISSING):
        return CommandError(error.message, NOT_FOUND)
    return CommandError(error.message, DAEMON_ERROR)
