"""The daemon's log: one line a record on standard error, as logfmt or JSON, through the standard `logging` module.

What goes into `extra` becomes a key of the line. The levels have containerd's names.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from moorage_api.errors import MoorageError
from moorage_api.rpc import NAMESPACE_HEADER, Call

TRACE = 5
PANIC = logging.CRITICAL + 5

_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": PANIC,
}
# Libraries whose records below a warning tell nothing of the daemon.
NOISY = ("asyncio", "grpc", "alembic", "sqlalchemy", "aiohttp", "hpack")

_CALLERS = {"namespace": NAMESPACE_HEADER, "client": "user-agent"}
_CALLS = logging.getLogger("mooraged.calls")
_NAMES = {number: name for name, number in _LEVELS.items()}
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(level: str, format: str = "text", stream: TextIO | None = None) -> None:
    """Send every log record from `level` up to `stream` (standard error), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.addLevelName(TRACE, "trace")
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(max(_LEVELS[level], logging.WARNING))


def trace_call(path: str, started: float, failure: MoorageError | None, call: Call) -> None:
    """At level trace, a line for a call that has ended: its path, its milliseconds since `started` (of the monotonic
    clock), the caller and the namespace, and how it failed."""
    if not _CALLS.isEnabledFor(TRACE):
        return
    fields: dict[str, Any] = {"method": path, "took": f"{(time.monotonic() - started) * 1000:.2f}ms"}
    fields |= {key: call.metadata[name] for key, name in _CALLERS.items() if name in call.metadata}
    if failure is not None:
        fields |= {"code": failure.code.name, "error": failure.message}
    _CALLS.log(TRACE, "call", extra=fields)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": _NAMES.get(record.levelno, record.levelname.lower()),
        "msg": record.getMessage(),
    }
    fields.update((key, value) for key, value in record.__dict__.items() if key not in _OWN)
    if record.exc_info and record.exc_info[1] is not None:
        fields["error"] = fields.get("error", record.exc_info[1])
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=str, ensure_ascii=False)


class LogfmtFormatter(logging.Formatter):
    """`key=value` pairs; a value with spaces, quotes or control characters is quoted, so that a record is one line."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in _fields(record).items())


def _quoted(value: str) -> str:
    if value and value.isprintable() and not any(c in value for c in ' ="\\'):
        return value
    return json.dumps(value, ensure_ascii=False)
