"""A core for the CRI plugin, in memory, whose every step can be made to fail or to hang."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moorage_api.core import Daemon
from moorage_api.errors import AlreadyExists, NotFound
from moorage_api.mounts import Mount
from moorage_api.runtime import Exit, Process, Status, Stdio
from moorage_api.sandboxes import SandboxSpec, SandboxStatus
from moorage_api.types import Labels


class Faults:
    """Which step fails, and how: `fail["sandbox.start"] = Unavailable("x")`; an error of None means to hang.

    `before` and `after`: whether a step fails without having had its effect, or after it.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fail: dict[str, Exception | None] = {}

    def check(self, step: str) -> None:
        self.steps.append(step)
        error = self.fail.get(step)
        if error is not None:
            raise error

    async def check_async(self, step: str) -> None:
        self.check(step)
        if step in self.fail:
            await asyncio.sleep(3600)


class Records:
    """A store of records by id."""

    def __init__(self, faults: Faults, name: str) -> None:
        self.items: dict[str, Any] = {}
        self._faults, self._name = faults, name

    def create(self, item: Any, labels: Any = None) -> Any:
        id = item if isinstance(item, str) else item.id
        self._faults.check(f"{self._name}.create")
        if id in self.items:
            raise AlreadyExists(id)
        self.items[id] = item
        return item

    def get(self, id: str) -> Any:
        if id not in self.items:
            raise NotFound(id)
        return self.items[id]

    def list(self, filters: Sequence[str] = ()) -> list[Any]:
        return list(self.items.values())

    def delete(self, id: str) -> None:
        self._faults.check(f"{self._name}.delete")
        if self.items.pop(id, None) is None:
            raise NotFound(id)


class Snapshots:
    """Snapshots as keys; each is a bind mount of one folder."""

    def __init__(self, faults: Faults, folder: Path) -> None:
        self.keys: set[str] = set()
        self._faults, self._folder = faults, folder

    def prepare(self, key: str, parent: str = "", labels: Labels | None = None) -> list[Mount]:
        self._faults.check("snapshot.prepare")
        self.keys.add(key)
        return [Mount("bind", str(self._folder), options=("bind", "ro"))]

    def remove(self, key: str) -> None:
        self._faults.check("snapshot.remove")
        if key not in self.keys:
            raise NotFound(key)
        self.keys.discard(key)


class Controller:
    """Sandboxes without shims."""

    def __init__(self, faults: Faults, folder: Path) -> None:
        self.states: dict[str, SandboxStatus] = {}
        self._faults, self._folder = faults, folder

    async def start(self, spec: SandboxSpec) -> SandboxStatus:
        await self._faults.check_async("sandbox.start")
        path = self._folder / spec.id
        self.states[spec.id] = SandboxStatus(spec.id, "ready", 1, str(path), time.time_ns())
        return self.states[spec.id]

    def status(self, id: str) -> SandboxStatus:
        if id not in self.states:
            raise NotFound(id)
        return self.states[id]

    async def stop(self, id: str, timeout: float = 10.0) -> None:
        await self._faults.check_async("sandbox.stop")
        if id in self.states:
            self.states[id] = replace(self.states[id], state="notready")

    async def shutdown(self, id: str) -> None:
        await self._faults.check_async("sandbox.shutdown")
        self.states.pop(id, None)


class Tasks:
    """Tasks without processes; SIGKILL ends one, other signals do nothing."""

    def __init__(self, faults: Faults) -> None:
        self.tasks: dict[str, Process] = {}
        self.kills: list[tuple[str, int]] = []
        self.on_exit: Callable[[str, Exit], None] = lambda id, exit: None
        self._faults = faults

    async def create(self, id: str, *, stdio: Stdio = Stdio(), **options: Any) -> Process:
        await self._faults.check_async("task.create")
        self.tasks[id] = Process(id, "", 7, Status.CREATED, stdio)
        return self.tasks[id]

    async def start(self, id: str, exec_id: str = "") -> int:
        await self._faults.check_async("task.start")
        self.tasks[id] = replace(self.get(id), status=Status.RUNNING)
        return 7

    async def kill(self, id: str, number: int, exec_id: str = "", *, all: bool = False) -> None:
        await self._faults.check_async("task.kill")
        self.kills.append((id, number))
        task = self.get(id)
        if number == signal.SIGKILL and task.status is not Status.STOPPED:
            exit = Exit(137, time.time_ns())
            self.tasks[id] = replace(task, status=Status.STOPPED, exit_status=137, exited_at=exit.at)
            self.on_exit(id, exit)

    async def wait(self, id: str, exec_id: str = "") -> Exit:
        task = self.get(id)
        return Exit(task.exit_status, task.exited_at)

    async def delete(self, id: str, exec_id: str = "") -> Exit:
        await self._faults.check_async("task.delete")
        task = self.get(id)
        del self.tasks[id]
        return Exit(task.exit_status, task.exited_at)

    def get(self, id: str, exec_id: str = "") -> Process:
        if id not in self.tasks:
            raise NotFound(id)
        return self.tasks[id]

    def list(self) -> list[Process]:
        return list(self.tasks.values())


class Bus:
    """Events that a test sends; one subscription each."""

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[Any]] = []

    def subscribe(self, filters: Sequence[str] = ()) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.append(queue)

        async def events() -> AsyncIterator[Any]:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item

        return events()


@dataclass
class FakeCore:
    """Both the core and its one namespace."""

    folder: Path
    faults: Faults = field(default_factory=Faults)
    namespace: str = "k8s.io"
    default_snapshotter: str = "fake"

    def __post_init__(self) -> None:
        self.daemon = Daemon("test", self.folder, self.folder, "", "")
        self.sandboxes = Records(self.faults, "sandbox record")
        self.containers = Records(self.faults, "container record")
        self.leases = Records(self.faults, "lease")
        self.sandbox_controller = Controller(self.faults, self.folder / "run")
        self.tasks = Tasks(self.faults)
        self.events = Bus()
        rootfs = self.folder / "rootfs"
        rootfs.mkdir()
        self.snapshots = Snapshots(self.faults, rootfs)

    def namespaced(self, namespace: str, lease: str = "") -> FakeCore:
        if lease:
            self.leases.get(lease)
        return self

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def snapshotter(self, name: str = "") -> Snapshots:
        return self.snapshots

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return asyncio.to_thread(call, *args, **kwargs)


@dataclass
class FakeCall:
    """An RPC of a caller who waits for so many seconds."""

    remaining: float | None = None
    namespace: str = ""
    lease: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
