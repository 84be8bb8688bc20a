"""What goes wrong at one host, whether to try again, and how many hosts' failures become one error."""

from __future__ import annotations

import os
import random
import socket
import ssl
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time

import aiohttp
import msgspec

from moorage_api.errors import (
    DataLoss,
    InvalidArgument,
    MoorageError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from mooraged.transfer.hosts import Host

RETRY_BASE = 0.2
RETRY_MAX = 10.0
RETRY_AFTER_MAX = 60.0
_DETAIL_MAX = 300

_BY_STATUS: Mapping[int, type[MoorageError]] = {
    HTTPStatus.BAD_REQUEST: InvalidArgument,
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: PermissionDenied,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.METHOD_NOT_ALLOWED: Unimplemented,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: DataLoss,
    HTTPStatus.TOO_MANY_REQUESTS: ResourceExhausted,
}
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class HostFailure(Exception):
    """One host did not give what it was asked for. `transient`: the same request may succeed later; `retry_after`:
    seconds that the host asked to wait; `status`: of HTTP, where there was an answer; `not_tls`: the other side does
    not speak TLS at all."""

    def __init__(
        self, error: MoorageError, *, transient: bool = False, retry_after: float = 0.0, status: int = 0
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.transient = transient
        self.retry_after = retry_after
        self.status = status
        self.not_tls = False

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt after number `attempt` (from 0): exponential, with jitter."""
        backoff = min(RETRY_BASE * 2.0**attempt, RETRY_MAX) * random.uniform(0.5, 1.0)
        return max(backoff, min(self.retry_after, RETRY_AFTER_MAX))


def of_status(status: int, headers: Mapping[str, str], body: bytes) -> HostFailure:
    """The failure that an HTTP error status means; the registry's own words are quoted, bounded."""
    kind = _BY_STATUS.get(status, Unavailable)
    detail = _detail(body)
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    error = kind(f"the answer was {phrase}{f' ({detail})' if detail else ''}")
    transient = status in _TRANSIENT
    return HostFailure(error, transient=transient, retry_after=_retry_after(headers), status=status)


def of_exception(error: Exception) -> HostFailure:
    """The failure that an error of the connection means. Only what may pass by itself is transient: a refused
    connection, an unknown name or a bad certificate is not."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return HostFailure(Unavailable(f"its certificate is not trusted: {error.certificate_error}"))
        case aiohttp.ClientConnectorError():
            failure = HostFailure(Unavailable(f"no connection: {_reason(error.os_error)}"))
            failure.not_tls = isinstance(error.os_error, ssl.SSLError | ConnectionResetError)
            return failure
        case aiohttp.ServerTimeoutError():
            return HostFailure(Unavailable("no progress within the time limit"), transient=True)
        case aiohttp.InvalidURL():
            return HostFailure(Unavailable("it redirects to a malformed address"))
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
            return HostFailure(Unavailable("the connection broke"), transient=True)
        case _:
            return HostFailure(Unavailable(f"not an answer of HTTP: {type(error).__name__}"))


def all_hosts(what: str, failures: Sequence[tuple[Host, HostFailure]]) -> MoorageError:
    """One error for all hosts tried, with why for each. Its class is that of the last: mirrors come first, and the
    registry itself has the last word."""
    if not failures:
        return NotFound(f"{what}: no host is configured for it")
    tried = "; ".join(f"{host}: {failure.error.message}" for host, failure in failures)
    kind = type(failures[-1][1].error)
    hint = " (it does not exist, or wants another login)" if kind in (Unauthenticated, PermissionDenied) else ""
    return kind(f"{what}{hint}: {tried}")


def _reason(error: OSError) -> str:
    """In the system's words; the resolver's and OpenSSL's numbers are not the system's."""
    if error.errno is None or error.errno <= 0 or isinstance(error, ssl.SSLError | socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _detail(body: bytes) -> str:
    """The codes and messages of an error body (distribution-spec, "Error Codes"), or nothing."""
    try:
        document = msgspec.json.decode(body)
        errors = document["errors"] if isinstance(document, dict) else []
        parts = [f"{item.get('code', '')}: {item.get('message', '')}" for item in errors if isinstance(item, dict)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return ""
    text = ", ".join(part.strip(": ") for part in parts)
    return "".join(char for char in text if char.isprintable())[:_DETAIL_MAX]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds (RFC 9110, section 10.2.3); zero where it does not say, or not in a known form."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
