"""How a command's end is told on the error stream (`metav1.Status`, as a kubelet's clients read it)."""

from __future__ import annotations

import json

from moorage_api.errors import MoorageError

JSON_VERSION = 4
"""From this version of the stream protocol on, the status is JSON; before it was the text of an error, or nothing."""


def ended(code: int, version: int) -> bytes:
    """The command ended with that exit code."""
    if version < JSON_VERSION:
        return b"" if not code else f"command terminated with non-zero exit code: {code}".encode()
    if not code:
        return _document({"status": "Success"})
    return _document(
        {
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    )


def failed(error: MoorageError, version: int) -> bytes:
    """The command could not be run, or not to its end."""
    if version < JSON_VERSION:
        return error.message.encode()
    return _document(
        {
            "status": "Failure",
            "message": f"Internal error occurred: {error.message}",
            "reason": "InternalError",
            "details": {"causes": [{"message": error.message}]},
            "code": 500,
        }
    )


def _document(fields: dict[str, object]) -> bytes:
    return json.dumps({"metadata": {}, **fields}, separators=(",", ":")).encode()
