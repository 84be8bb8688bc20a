"""The OCI runtime: runc, crun or another with their command line, run as a child process under a deadline.

The command line is that of runc (github.com/opencontainers/runc, man/). What went wrong is read from the runtime's own
log (`--log-format json`) and told as `OCI runtime STEP failed: REASON`.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from moorage_api.errors import DeadlineExceeded, MoorageError, NotFound
from moorage_shim import cgroups, log, scratch
from moorage_shim.processes import Command, Forker, find_program, read_small

# Seconds that a step may take before it is killed and undone.
_CREATE = 120.0
_STEP = 60.0
_QUICK = 20.0

# Runtimes whose containers are plain processes of this kernel: signals can go straight to them.
_DIRECT = frozenset({"runc", "crun", "youki"})
# Runtimes that keep a folder of files for a container, and nothing else but its cgroup.
_FORGETTABLE = frozenset({"runc", "crun"})
_LOG_MAX = 1 << 20
_DEFAULTS = ("crun", "runc")
# A Go program that links libc, as runc does, otherwise lets each of its threads set up a heap of libc's own, which it does
# not use (mallopt(3)): a fifth of the processor time of `runc exec`. What the operator has set goes first.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
# And one processor at a time: all that `runc exec` does is one thing after the other, and threads that are woken to find
# nothing to do cost a twentieth of its processor time. Where there may be hooks, which inherit it, it is left as it is.
_EXEC_ENVIRONMENT = {**_ENVIRONMENT, "GOMAXPROCS": "1"}


class RuntimeFailed(MoorageError):
    """The OCI runtime ended with an error; the message names the step and gives the runtime's own words."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How `create`, `exec` and `restore` start a process: its descriptors, or the socket that gets its terminal, and the
    OOM score that it begins with, if not the shim's. `on_start` is called when the runtime runs."""

    pid_file: str
    fds: Mapping[int, int] = field(default_factory=dict)
    console_socket: str = ""
    oom_score: int | None = None
    on_start: Callable[[], None] | None = None

    def arguments(self) -> list[str]:
        """The flags that all three share."""
        console = ["--console-socket", self.console_socket] if self.console_socket else []
        return ["--pid-file", self.pid_file, *console]


class OciRuntime:
    """One runtime for one bundle."""

    _serial = itertools.count(1)

    def __init__(self, forker: Forker, binary: str, root: str, bundle: str, *, systemd_cgroup: bool = False) -> None:
        self.binary = binary
        self.root = root
        self.bundle = bundle
        self.systemd_cgroup = systemd_cgroup
        self._forker = forker

    @property
    def name(self) -> str:
        """Which runtime it is, by the name of its program."""
        return os.path.basename(self.binary)

    @property
    def direct(self) -> bool:
        """Whether the container's processes can be signalled without the runtime."""
        return self.name in _DIRECT

    async def create(self, id: str, launch: Launch, flags: Sequence[str], timeout: float | None = None) -> None:
        """Make the container up to the point where its first process waits to be started."""
        args = ["create", "--bundle", self.bundle, *launch.arguments(), *flags, id]
        await self._run("create", args, timeout or _CREATE, launch)

    async def start(self, id: str) -> None:
        """Let the first process run the user's program."""
        await self._run("start", ["start", id], _STEP)

    async def exec(self, id: str, process_file: str, launch: Launch, timeout: float | None = None) -> None:
        """Start one more process in the container; its parent will be the shim."""
        args = ["exec", "--process", process_file, "--detach", *launch.arguments(), id]
        await self._run("exec", args, timeout or _STEP, launch)

    async def kill(self, id: str, signal: int, *, all: bool = False) -> None:
        """Signal the first process, or all. `NotFound` when it is not there any more."""
        try:
            await self._run("kill", ["kill", *(["--all"] if all else []), id, str(signal)], _QUICK)
        except RuntimeFailed as error:
            if _means_gone(error.message):
                raise NotFound("process already finished") from error
            raise

    async def delete(self, id: str, *, force: bool = False) -> None:
        """Remove the container from the runtime's state, with its cgroup; gone already is fine."""
        try:
            await self._run("delete", ["delete", *(["--force"] if force else []), id], _STEP)
        except RuntimeFailed as error:
            if not _means_gone(error.message):
                raise

    def forget(self, id: str, group: cgroups.Cgroup) -> bool:
        """Remove what the runtime keeps of a container that has ended, as its `delete` does, without the time that it
        takes to run it. False where that is not all that `delete` does; then nothing is lost by running it after all."""
        if self.systemd_cgroup or os.path.basename(self.binary) not in _FORGETTABLE or not group.folders:
            return False
        if _ends_with_more(self.bundle):
            return False
        group.remove()
        if any(map(os.path.isdir, group.folders.values())):
            return False
        try:
            for folder, _, files in os.walk(os.path.join(self.root, id), topdown=False):
                for name in files:
                    os.unlink(os.path.join(folder, name))
                os.rmdir(folder)
        except OSError as error:
            log.warning(f"container {id} is left to the runtime to delete: {error}")
            return False
        return True

    async def pause(self, id: str) -> None:
        """Freeze all its processes."""
        await self._run("pause", ["pause", id], _QUICK)

    async def resume(self, id: str) -> None:
        """Thaw them."""
        await self._run("resume", ["resume", id], _QUICK)

    async def update(self, id: str, resources: bytes) -> None:
        """Set new limits from an OCI `LinuxResources` as JSON."""
        path = os.path.join(self.bundle, f".resources-{next(self._serial)}.json")
        _write(path, resources)
        try:
            await self._run("update", ["update", "--resources", path, id], _QUICK)
        finally:
            os.unlink(path)

    async def checkpoint(self, id: str, flags: Sequence[str]) -> None:
        """Write the container's state with criu."""
        await self._run("checkpoint", ["checkpoint", *flags, id], _CREATE)

    async def restore(self, id: str, launch: Launch, flags: Sequence[str]) -> None:
        """Make and start the container from a checkpoint."""
        args = ["restore", "--detach", "--bundle", self.bundle, *launch.arguments(), *flags, id]
        await self._run("restore", args, _CREATE, launch)

    async def _run(self, step: str, args: Sequence[str], timeout: float, launch: Launch | None = None) -> None:
        what = f"OCI runtime {step} failed"
        log_file = scratch.path(self.bundle, f".oci-{next(self._serial)}.log")
        argv = [self.binary, "--root", self.root, "--log", log_file, "--log-format", "json"]
        if self.systemd_cgroup:
            argv.append("--systemd-cgroup")
        command = Command(
            [*argv, *args],
            self.bundle,
            env=_variables(step) if self.direct else None,
            fds=launch.fds if launch else {},
            orphans=launch is not None,
            sealed=self.direct,
            # Not for an exec, which joins the groups that there are: the mount namespace takes as long as crun itself.
            hidden=self.name == "crun" and step != "exec" and cgroups.is_hybrid(),
            # crun dies of writing the state to a hook that ends without reading it, though it means to bear that. Containers
            # have all signals back from crun; runc sees to both itself.
            deaf=self.name == "crun" and step != "exec",
            oom_score=launch.oom_score if launch else None,
            quick=step == "exec",
        )
        try:
            status = await self._forker.run(command, timeout, what, launch.on_start if launch else None)
            if status:
                raise RuntimeFailed(f"{what}: {_reason(log_file, status)}")
        except FileNotFoundError as error:
            raise NotFound(f"{what}: {error.filename}: {error.strerror}") from error
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error.message}; it was killed") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(log_file)


def default_binary() -> str:
    """crun where it is installed, else runc."""
    for name in _DEFAULTS:
        with suppress(FileNotFoundError):
            return find_program(name)
    return _DEFAULTS[-1]


def default_root(bundle: str, namespace: str) -> str:
    """Where the runtime keeps its state when the client does not say: beside the daemon's bundles, by namespace.

    A bundle is `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`; elsewhere the state stays in the bundle.
    """
    tasks = os.path.dirname(os.path.dirname(os.path.abspath(bundle)))
    if os.path.basename(tasks) == "io.containerd.runtime.v2.task":
        return os.path.join(os.path.dirname(tasks), "oci", namespace)
    return os.path.join(bundle, "oci")


def read_pid(path: str) -> int:
    """The pid that the runtime wrote; `MoorageError` naming the file when it did not."""
    try:
        return int(read_small(path))
    except (OSError, ValueError) as error:
        raise MoorageError(f"OCI runtime left no pid in {path}: {error}") from error


@functools.cache
def _variables(step: str) -> Mapping[str, str]:
    """The environment of a step. Made once, since this process's own does not change."""
    return {**(_EXEC_ENVIRONMENT if step == "exec" else _ENVIRONMENT), **os.environ}


def _reason(log_file: str, status: int) -> str:
    """The last error that the runtime logged, else how it ended."""
    reason = ""
    with suppress(OSError), open(log_file, "rb") as file:
        for line in file.read(_LOG_MAX).splitlines():
            with suppress(ValueError, AttributeError):
                entry = json.loads(line)
                if entry.get("level") in ("error", "fatal"):
                    reason = str(entry.get("msg", "")).strip()
    if reason:
        return reason
    return f"killed by signal {status - 128}" if status > 128 else f"exit status {status} without a reason"


def _ends_with_more(bundle: str) -> bool:
    """Whether the container's configuration asks for something to be done after its end: hooks, cache allocation."""
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            spec = json.load(file)
    except (OSError, ValueError):
        return True
    return bool((spec.get("hooks") or {}).get("poststop") or (spec.get("linux") or {}).get("intelRdt"))


def _means_gone(message: str) -> bool:
    """runc and crun have no exit code for it, only words."""
    lowered = message.lower()
    return any(
        words in lowered
        for words in (
            "does not exist",
            "no such process",
            "process already finished",
            "container not running",
            "is not running",
            "no such file or directory",
        )
    )


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
