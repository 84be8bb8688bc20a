"""The closed set of errors that every contract raises.

Each class carries the gRPC status code that it becomes on the wire (containerd's `errdefs` mapping), so that the
mapping exists once: `code` outward, `from_code` inward.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class MoorageError(Exception):
    """The base of all errors; raised itself only where nothing more is known."""

    code: ClassVar[Code] = Code.UNKNOWN

    @property
    def message(self) -> str:
        """What went wrong, with what and where; one line."""
        return str(self)


class Cancelled(MoorageError):
    """The caller went away or asked to stop."""

    code = Code.CANCELLED


class InvalidArgument(MoorageError):
    """The request itself is wrong, whatever the state of the daemon."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(MoorageError):
    """A call out (to a shim, a plugin, a registry) did not answer in time."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(MoorageError):
    """The object does not exist in this namespace."""

    code = Code.NOT_FOUND


class AlreadyExists(MoorageError):
    """The name or digest is taken."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(MoorageError):
    """The caller may not do this."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(MoorageError):
    """A limit was reached: size, count, disk space."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(MoorageError):
    """The state does not allow it now: a parent is missing, a task still runs, a namespace is not empty."""

    code = Code.FAILED_PRECONDITION


class Aborted(MoorageError):
    """Another caller was there first (a locked ingest); the same call may succeed later."""

    code = Code.ABORTED


class OutOfRange(MoorageError):
    """An offset lies beyond what is there."""

    code = Code.OUT_OF_RANGE


class Unimplemented(MoorageError):
    """This backend can't do it; the message says why."""

    code = Code.UNIMPLEMENTED


class Internal(MoorageError):
    """A defect of Moorage; the log has the traceback."""

    code = Code.INTERNAL


class Unavailable(MoorageError):
    """Something the call needs is not there now: a registry, a shim, a proxy plugin."""

    code = Code.UNAVAILABLE


class DataLoss(MoorageError):
    """What is on disk, or what came in, is not what its digest says."""

    code = Code.DATA_LOSS


class Unauthenticated(MoorageError):
    """The registry wants credentials, or does not take those given."""

    code = Code.UNAUTHENTICATED


_BY_CODE: dict[Code, type[MoorageError]] = {
    cls.code: cls
    for cls in (
        Cancelled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def from_code(code: int, message: str) -> MoorageError:
    """The error that a status code of another process stands for; an unknown code gives the base class."""
    try:
        return _BY_CODE.get(Code(code), MoorageError)(message)
    except ValueError:
        return MoorageError(message)
