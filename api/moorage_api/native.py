"""What the containers of the command line say of themselves, in labels that its clients and the daemon both know.

The restart labels are containerd's own (its restart monitor), so that containers of its other clients are kept, too.
"""

from __future__ import annotations

import glob
import os
import pathlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from moorage_api.containers import Container
from moorage_api.errors import InvalidArgument
from moorage_api.oci import spec as oci
from moorage_api.runtime import Stdio

NAME = "moorage.io/name"
LOG_PATH = "moorage.io/log-path"
EXIT_STATUS = "moorage.io/exit-status"
EXITED_AT = "moorage.io/exited-at"
STOP_SIGNAL = "moorage.io/stop-signal"
STOP_TIMEOUT = "moorage.io/stop-timeout"
AUTO_REMOVE = "moorage.io/auto-remove"

RESTART_STATUS = "containerd.io/restart.status"
RESTART_POLICY = "containerd.io/restart.policy"
RESTART_COUNT = "containerd.io/restart.count"
RESTART_LOG = "containerd.io/restart.loguri"
EXPLICITLY_STOPPED = "containerd.io/restart.explicitly-stopped"
RUNNING = "running"
STOPPED = "stopped"

ATTACHED = "attached-"
"""How the folders begin, within a container's own, in which clients have FIFOs for its output."""
INPUT = "stdin"
"""The FIFO in a container's own folder that is its input, where it was made with one."""
RUNTIMES = ("io.containerd.runc.v2", "io.containerd.moorage.v2", "io.moorage.v2")
"""Runtimes whose shim keeps logs (`cri:`) and lets clients attach: Moorage's own, unless the daemon is told otherwise."""

CONTAINER = "container:"
"""How a network begins that is another container's."""
NETWORK_OF = "moorage.io/network-of"
"""The label: the id of the container whose network this one joins, whenever it starts."""

ANONYMOUS_VOLUMES = "moorage.io/anonymous-volumes"
"""The label: the names of the volumes that were made for this container alone, between spaces."""

_STARTED, _OOM = "started", "oom"
_ANONYMOUS = re.compile("[0-9a-f]{64}")
_POLICIES = ("no", "always", "on-failure", "unless-stopped")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`no`, `always`, `unless-stopped` or `on-failure`, the last at most `retries` times (0: without a limit)."""

    name: str
    retries: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`on-failure:3` and the like; empty is `always`, as containerd has it. `InvalidArgument`."""
        name, colon, retries = text.partition(":")
        name = name or "always"
        if name not in _POLICIES or (colon and (name != "on-failure" or not retries.isdecimal())):
            raise InvalidArgument(
                f"invalid restart policy {text!r}: expected {', '.join(_POLICIES)}, or on-failure:TIMES"
            )
        return cls(name, int(retries) if colon else 0)

    def __str__(self) -> str:
        return f"{self.name}:{self.retries}" if self.retries else self.name


def wants_restart(labels: Mapping[str, str], exit_status: int) -> bool:
    """Whether a container that does not run is to run: what its restart labels say of such an end."""
    if labels.get(RESTART_STATUS) != RUNNING:
        return False
    try:
        policy = RestartPolicy.parse(labels.get(RESTART_POLICY, ""))
    except InvalidArgument:
        return False
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return labels.get(EXPLICITLY_STOPPED) != "true"
        case "on-failure":
            return exit_status != 0 and (not policy.retries or restart_count(labels) < policy.retries)
    return False


def restart_count(labels: Mapping[str, str]) -> int:
    """How often it has been started again; zero for what is no number."""
    count = labels.get(RESTART_COUNT, "")
    return int(count) if count.isdecimal() else 0


def stdio(labels: Mapping[str, str], id: str, *, runtime: str, terminal: bool) -> Stdio:
    """The streams of a container's first process while no client is there: its log, and its input."""
    path = labels.get(LOG_PATH, "") if runtime in RUNTIMES else ""
    log = f"cri://{path}" if path else ""
    return Stdio(input_path(labels, id), log, "" if terminal else log, terminal)


def input_path(labels: Mapping[str, str], id: str) -> str:
    """The FIFO that is a container's input; empty where it has none."""
    folder = own_folder(labels, id)
    path = os.path.join(folder, INPUT)
    try:
        return path if folder and stat.S_ISFIFO(os.lstat(path).st_mode) else ""
    except OSError:
        return ""


def in_network_of(container: Container, pid: int) -> Container:
    """The record with a specification by which the container joins the network of the process `pid`."""
    spec = oci.decode(container.spec)
    oci.set_namespace(spec, "network", f"/proc/{pid}/ns/net")
    return replace(container, spec=oci.encode(spec))


def client_fifos(labels: Mapping[str, str], id: str, stdio: Stdio) -> list[str]:
    """The FIFOs by which clients read what a container writes, or have read it. Blocks."""
    folder = own_folder(labels, id)
    found = glob.glob(f"{glob.escape(folder)}/{ATTACHED}*/std[oe]*") if folder else []
    return [*found, *([stdio.stdout] if stdio.stdout.startswith("/") else [])]


def is_read(fifo: str) -> bool:
    """Whether somebody has a FIFO open to read it. Nobody is ENXIO (fifo(7)); no such file: the client has tidied up."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def note_start(labels: Mapping[str, str], id: str) -> None:
    """Note, in a container's own folder, that it is started now. Without such a folder nobody will ask. Blocks."""
    folder = own_folder(labels, id)
    if folder:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        pathlib.Path(folder, _OOM).unlink(missing_ok=True)
        pathlib.Path(folder, _STARTED).touch(mode=0o600)


def note_oom(labels: Mapping[str, str], id: str) -> None:
    """Note that the kernel killed something in it for want of memory. Blocks."""
    folder = own_folder(labels, id)
    if folder and os.path.isdir(folder):
        pathlib.Path(folder, _OOM).touch(mode=0o600)


def started_at(labels: Mapping[str, str], id: str) -> int:
    """When it was started last, Unix nanoseconds; zero where it never was, or nobody noted it."""
    try:
        return os.stat(os.path.join(own_folder(labels, id), _STARTED)).st_mtime_ns
    except OSError:
        return 0


def oom_killed(labels: Mapping[str, str], id: str) -> bool:
    """Whether memory ran out in it since it was started."""
    return os.path.exists(os.path.join(own_folder(labels, id), _OOM))


def anonymous_volumes(labels: Mapping[str, str]) -> list[str]:
    """The names of the volumes that go with a container. A label is not trusted with other names than such ones have."""
    return [name for name in labels.get(ANONYMOUS_VOLUMES, "").split() if _ANONYMOUS.fullmatch(name)]


def own_folder(labels: Mapping[str, str], id: str) -> str:
    """The folder of a container's log and other files, to be removed with it; empty where it has none.

    Only a folder that is called after the container is its own: a label is not trusted with more.
    """
    folder = os.path.dirname(labels.get(LOG_PATH, ""))
    return folder if folder and os.path.basename(folder) == id else ""
