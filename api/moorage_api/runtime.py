"""Tasks: the processes of containers, run by shims (`containerd.services.tasks.v1`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

from moorage_api.mounts import Mount
from moorage_api.types import TypedValue


class Status(IntEnum):
    """The states of a process; numbers of `containerd.v1.types.Status`."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True, slots=True)
class Stdio:
    """Where a process's streams go. Each is empty (nowhere), the path of a FIFO, or a URI:

    - `file:///path`: appended to the file;
    - `binary:///path?key=value`: a logging program that inherits the streams as fds 3 and 4 and a ready pipe as 5;
    - `cri:///path`: a log file in the format of the Kubernetes CRI (`TIME stdout F line`), written by the shim, which
      outlives the daemon; `stdout` and `stderr` may name the same file.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process as last seen. `exec_id` is empty for the container's first process; exit fields are set when stopped."""

    container_id: str
    exec_id: str
    pid: int
    status: Status
    stdio: Stdio = Stdio()
    exit_status: int = 0
    exited_at: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `status` is its exit code, or 128 plus the signal that killed it; `at` when."""

    status: int
    at: int
    pid: int = 0


@runtime_checkable
class TaskManager(Protocol):
    """The tasks of one namespace.

    `get` and `list` answer from memory and never wait for a shim. Every other call has a deadline; a shim that does
    not answer gives `DeadlineExceeded`, one that died gives `Unavailable` or, for a task known to be dead, `NotFound`.
    """

    async def create(
        self,
        container_id: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = Stdio(),
        options: TypedValue | None = None,
        checkpoint: str = "",
        runtime: str = "",
    ) -> Process:
        """Create the task of a container from its record; with a `sandbox_id` there, in that sandbox's shim. `runtime`
        replaces the record's runtime name; `checkpoint` is a folder to restore from, which is moved and becomes the task's.

        Without `rootfs`, the mounts are those of the container's snapshot. On an error nothing stays: no bundle,
        mount, cgroup or process, and the message names the step. `AlreadyExists`, `NotFound`.
        """

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Start the created process; returns its pid. `NotFound`, `FailedPrecondition`."""

    async def exec(self, container_id: str, exec_id: str, spec: TypedValue, stdio: Stdio = Stdio()) -> None:
        """Add a process (an OCI `process` as JSON); `start` starts it. `AlreadyExists`, `NotFound`."""

    async def kill(self, container_id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Send a signal, to every process of the container with `all`; SIGKILL to an exec with `all` ends what that has
        started, too, where the shim can. `NotFound` also when it has exited."""

    async def delete(self, container_id: str, exec_id: str = "") -> Exit:
        """Forget a stopped (or never started) process and release all it held; returns how it ended.
        `FailedPrecondition` while it runs; `NotFound`."""

    async def wait(self, container_id: str, exec_id: str = "") -> Exit:
        """Return when the process has exited; at once when it has. `NotFound`."""

    def get(self, container_id: str, exec_id: str = "") -> Process:
        """`NotFound`."""

    def list(self) -> list[Process]:
        """The first process of every task, by container id."""

    async def pause(self, container_id: str) -> None: ...

    async def resume(self, container_id: str) -> None: ...

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None: ...

    async def close_io(self, container_id: str, exec_id: str = "", *, stdin: bool = True) -> None: ...

    async def pids(self, container_id: str) -> Sequence[tuple[int, TypedValue | None]]:
        """The pids in the container; each with the exec's details where it is one (`containerd.runc.v1.ProcessDetails`)."""

    async def stats(self, container_id: str) -> TypedValue:
        """Its cgroup's metrics: `io.containerd.cgroups.v1.Metrics` or `v2`."""

    async def update(
        self, container_id: str, resources: TypedValue, annotations: Mapping[str, str] | None = None
    ) -> None:
        """New limits: an OCI `LinuxResources` as JSON."""

    async def checkpoint(self, container_id: str, path: str, options: TypedValue | None = None) -> None:
        """Write a checkpoint to `path`; `Unimplemented` where the OCI runtime has no criu."""

    async def attach(self, container_id: str, stdio: Stdio, exec_id: str = "", *, patient: bool = False) -> None:
        """Copy what the process writes from now on to the FIFOs `stdio.stdout` and `stdio.stderr` as well, each until
        its reader has gone; with a terminal, all goes to `stdout`. They end with the process's own streams.

        Where its output goes is not touched. A reader that takes nothing for long is dropped, and with `patient` waited
        for as long as it is there. For its input there is
        the process's own FIFO. `NotFound`; `FailedPrecondition` for a process that is not running, or whose output
        goes nowhere; `Unimplemented` by shims that are not Moorage's.
        """

    async def reopen_log(self, container_id: str) -> None:
        """Open the `cri:` log of a running container anew after a rotation; no line is lost or written twice."""
