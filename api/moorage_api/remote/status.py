"""Errors of `moorage_api.errors` as gRPC statuses: the one place outward, and the one inward."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from moorage_api.errors import Internal, MoorageError, from_code

logger = logging.getLogger(__name__)

_STATUS = {status.value[0]: status for status in grpc.StatusCode}
# A status message travels in a header, percent-encoded; clients drop headers beyond 8 KiB.
_MESSAGE_MAX = 4096


def fail(path: str, context: Any, error: Exception) -> MoorageError:
    """Give the call in `context` the status that `error` stands for."""
    failure = as_moorage_error(path, error)
    context.set_code(_STATUS[failure.code.value])
    context.set_details(shortened(failure.message))
    return failure


def as_moorage_error(path: str, error: Exception) -> MoorageError:
    """`error` itself if it is one of the closed set; anything else is logged with its traceback."""
    if isinstance(error, MoorageError):
        return error
    logger.error("call failed unexpectedly", exc_info=error, extra={"method": path})
    return Internal(f"{type(error).__name__}: {error}")


def shortened(message: str) -> str:
    """`message`, cut where it would not fit into its header."""
    size = 0
    for index, character in enumerate(message):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > _MESSAGE_MAX:
            return f"{message[:index]}…"
    return message


def from_rpc_error(error: grpc.RpcError, peer: str) -> MoorageError:
    """The error that a failed call to `peer` stands for. What gRPC itself says of a peer that is gone names it."""
    call: Any = error  # what a failed call raises is the call, too
    code, details = call.code(), call.details() or ""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return from_code(code.value[0], f"{peer} does not answer: {details or code.name}")
    return from_code(code.value[0], details or code.name.lower().replace("_", " "))
