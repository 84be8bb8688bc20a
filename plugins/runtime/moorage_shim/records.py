"""What the shim writes into a bundle, so that the daemon can learn from it when the shim is gone.

`moorage.json` tells how the container is run: enough to clean up after it. `exit.json` tells how its first process ended;
it is written before anybody is told. The others have nobody left to ask for them when the shim is gone.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

_RUN = "moorage.json"
_EXIT = "exit.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """How a container is run: the OCI runtime, where its state is, and what else must go with the container."""

    id: str
    binary: str
    root: str
    systemd_cgroup: bool = False
    pid: int = 0
    cgroup: dict[str, str] = field(default_factory=dict)
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a container ended: `status` is the exit code or 128 plus the signal, `at` in Unix nanoseconds."""

    id: str
    pid: int
    status: int
    at: int
    oom_killed: bool = False
    dropped_log_bytes: int = 0


def write_run(bundle: str, record: RunRecord) -> None:
    """Replace the bundle's run record."""
    _write(os.path.join(bundle, _RUN), asdict(record))


def read_run(bundle: str) -> RunRecord | None:
    """The bundle's run record; None when there is none, or it is not readable."""
    found = _read(os.path.join(bundle, _RUN))
    return RunRecord(**found) if found else None


def write_exit(bundle: str, record: ExitRecord) -> None:
    """Write an exit down."""
    _write(os.path.join(bundle, _EXIT), asdict(record))


def read_exit(bundle: str) -> ExitRecord | None:
    """An exit from disk; None when the container has not ended, or not before its shim."""
    found = _read(os.path.join(bundle, _EXIT))
    return ExitRecord(**found) if found else None


def _write(path: str, content: dict[str, Any]) -> None:
    """Whole or not at all. It survives every process, and need not survive the machine, with which the container ends and
    the bundle goes: so nothing is synced."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(json.dumps(content).encode())
    os.rename(temporary, path)


def _read(path: str) -> dict[str, Any]:
    with suppress(OSError, ValueError), open(path, "rb") as file:
        found = json.load(file)
        if isinstance(found, dict):
            return found
    return {}
