"""Health checks of the command line's containers: what is asked, and what came of it.

The check is an extension of the container's record; what its last runs gave is a file in the container's own folder,
written by the daemon. A label has the state alone, so that a list needs no files and a change is an event.
"""

from __future__ import annotations

import os

import msgspec

from moorage_api.containers import Container
from moorage_api.errors import InvalidArgument
from moorage_api.native import own_folder
from moorage_api.oci.image import Healthcheck
from moorage_api.types import TypedValue

EXTENSION = "moorage.io/healthcheck"
STATUS = "moorage.io/health"
"""The label: `starting`, `healthy` or `unhealthy`."""
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

_TYPE = "moorage.io/healthcheck"
_FILE = "health.json"
_SECOND = 1_000_000_000
_INTERVAL, _TIMEOUT, _RETRIES, _START_INTERVAL = 30 * _SECOND, 30 * _SECOND, 3, 5 * _SECOND
_KEPT = 5
"""Results in a report: as many as docker keeps."""


class Result(msgspec.Struct, frozen=True):
    """One run of a check: Unix nanoseconds, its exit code (-1: it took too long), and the beginning of its output."""

    start: int
    end: int
    exit_code: int
    output: str


class Report(msgspec.Struct, frozen=True):
    """How a container is: since `started` (Unix nanoseconds) its first process has been `pid`."""

    pid: int
    started: int
    status: str = STARTING
    failing: int = 0
    log: tuple[Result, ...] = ()

    def after(self, result: Result, check: Healthcheck) -> Report:
        """The report with one more result. What fails within the start period of a container that has not been healthy
        yet does not count (Dockerfile reference, HEALTHCHECK)."""
        log = (*self.log, result)[-_KEPT:]
        if result.exit_code == 0:
            return Report(self.pid, self.started, HEALTHY, 0, log)
        if self.status == STARTING and result.end < self.started + check.start_period:
            return Report(self.pid, self.started, STARTING, self.failing, log)
        failing = self.failing + 1
        status = UNHEALTHY if failing >= check.retries else self.status
        return Report(self.pid, self.started, status, failing, log)

    def pause(self, check: Healthcheck, now: int) -> int:
        """Nanoseconds until the next run. It comes sooner within the start period of a container that has not been healthy
        yet (the same, `--start-interval`)."""
        starting = self.status == STARTING and now < self.started + check.start_period
        return check.start_interval if starting else check.interval


def with_defaults(check: Healthcheck) -> Healthcheck:
    """The check with docker's own values where it has none."""
    interval = check.interval or _INTERVAL
    return msgspec.structs.replace(
        check,
        interval=interval,
        timeout=check.timeout or _TIMEOUT,
        start_interval=check.start_interval or min(interval, _START_INTERVAL),
        retries=check.retries or _RETRIES,
    )


def command(check: Healthcheck | None) -> list[str]:
    """What is run in the container; empty for no check. `InvalidArgument` for a form that is not known."""
    kind, *words = check.test if check is not None and check.test else ("NONE",)
    match kind:
        case "NONE":
            return []
        case "CMD" if words:
            return words
        case "CMD-SHELL" if words:
            return ["/bin/sh", "-c", *words]
    raise InvalidArgument(f"invalid health check {kind!r}: expected CMD, CMD-SHELL or NONE")


def pack(check: Healthcheck) -> TypedValue:
    """A check as a record keeps it."""
    return TypedValue(_TYPE, msgspec.json.encode(check))


def check_of(container: Container) -> Healthcheck | None:
    """The check in a record; None where there is none, or it cannot be read."""
    value = container.extensions.get(EXTENSION)
    if value is None:
        return None
    try:
        return msgspec.json.decode(value.value, type=Healthcheck)
    except msgspec.DecodeError:
        return None


def condition_of(container: Container) -> str:
    """How a container is that runs: what the daemon said last, `starting` before it has, empty without a check."""
    return "" if check_of(container) is None else container.labels.get(STATUS, STARTING)


def read_report(container: Container) -> Report | None:
    """What the last runs gave; None where there were none. Blocks on a small file."""
    try:
        with open(_path(container), "rb") as file:
            return msgspec.json.decode(file.read(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None


def write_report(container: Container, report: Report) -> None:
    """In place of an earlier one. `OSError`; the folder of a container that is being removed is not made again."""
    path = _path(container)
    scratch = f"{path}.new"
    with open(scratch, "wb") as file:
        file.write(msgspec.json.encode(report))
    os.replace(scratch, path)


def _path(container: Container) -> str:
    return os.path.join(own_folder(container.labels, container.id), _FILE)
