"""A runtime on folders of its own, which can be stopped and started again over the same state."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from moorage_api.containers import Container
from moorage_api.containers import Runtime as RuntimeName
from moorage_api.core import Daemon
from moorage_api.errors import NotFound
from moorage_api.events import Envelope
from moorage_api.mounts import Mount
from moorage_api.oci import spec as oci
from moorage_api.types import TypedValue
from moorage_shim.launcher import ZygoteLauncher
from mooraged.events.exchange import Exchange
from mooraged.runtime.bundle import Bundle
from mooraged.runtime.config import RuntimeConfig, RuntimeEntry
from mooraged.runtime.runtime import Runtime
from mooraged.runtime.tasks import NamespacedTasks
from mooraged.runtime.ttrpc_server import TtrpcServer
from mooraged.services import events_ttrpc
from support.leftovers import cgroup_processes, cgroups, mounts_below, sweep
from support.shim import workers

DEBIAN = "io.containerd.debian.v2"
OURS = "io.containerd.runc.v2"
NAMESPACE = "testing"
DEBIAN_SOCKETS = Path("/run/containerd/s")


class Containers:
    """The records of one namespace, in memory."""

    def __init__(self) -> None:
        self.records: dict[str, Container] = {}

    def get(self, id: str) -> Container:
        if id not in self.records:
            raise NotFound(f"container {id} not found")
        return self.records[id]


class View:
    """What the runtime needs of one namespace."""

    def __init__(self, rootfs: Sequence[Mount]) -> None:
        self.containers = Containers()
        self.content: Any = None
        self._rootfs = rootfs

    def snapshotter(self, name: str = "") -> View:
        return self

    def mounts(self, key: str) -> Sequence[Mount]:
        return self._rootfs


class Records:
    """The records of all namespaces."""

    def __init__(self, rootfs: Sequence[Mount]) -> None:
        self._rootfs = rootfs
        self._views: dict[str, View] = {}

    def bind(self, namespace: str, lease: str = "") -> View:
        return self._views.setdefault(namespace, View(self._rootfs))


class World:
    """One daemon's runtime. Containers have the runtime `runtime_name` unless they say otherwise."""

    def __init__(self, folder: Path, rootfs: Path, tag: str, runtime_name: str = DEBIAN) -> None:
        self.folder = folder
        self.tag = tag
        self.cgroup = f"moorage-{tag.rpartition('=')[2]}"
        self.daemon = Daemon("test", folder / "root", folder / "state", str(folder / "d.sock"), str(folder / "t.sock"))
        self.records = Records([Mount("bind", str(rootfs), options=("rbind", "rw"))])
        self.config = RuntimeConfig(
            runtimes={DEBIAN: RuntimeEntry(shim="containerd-shim-runc-v2", binary="runc")}, call_timeout=5.0
        )
        self.runtime_name = runtime_name
        self.launcher: ZygoteLauncher | None = None
        self.task_folder = folder / "state" / "tasks"
        self.sandbox_folder = folder / "state" / "sandboxes"
        self.bus = Exchange(4096)
        self.events: list[Envelope] = []
        self._collector: asyncio.Task[None] | None = None

    async def start(self, **config: Any) -> None:
        """A new daemon over the same folders and records, with a bus that nobody else has heard, and with these keys
        of its configuration changed."""
        self.config = msgspec.structs.replace(self.config, **config)
        self.daemon.state.mkdir(parents=True, exist_ok=True)
        self.bus = Exchange(4096)
        self.events = []
        self._collector = asyncio.create_task(self._collect(self.bus.subscribe()))
        self.launcher = ZygoteLauncher()
        self.runtime = Runtime(
            self.daemon,
            self.config,
            self.bus,
            self.records,
            {"moorage": self.launcher},
            self.task_folder,
            self.sandbox_folder,
        )
        self._server = TtrpcServer([events_ttrpc.service(self.runtime)])
        await self._server.start(self.daemon.ttrpc_address)
        await self.launcher.prepare()
        await self.runtime.start()

    async def stop(self) -> None:
        """As a daemon ends: connections are closed, nothing is written."""
        await self._server.close()
        await self.runtime.stop()
        if self.launcher is not None:
            await self.launcher.close()
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)

    async def restart(self, **config: Any) -> None:
        await self.stop()
        await self.start(**config)

    @property
    def tasks(self) -> NamespacedTasks:
        return self.runtime.tasks(NAMESPACE)

    def container(
        self, id: str, *args: str, runtime: str = "", sandbox_id: str = "", options: TypedValue | None = None
    ) -> str:
        """Record a container of busybox that runs `args`; returns its id."""
        spec = oci.default_spec(args=args, cgroups_path=f"/{self.cgroup}/{id}", hostname=id)
        # The container shares the root file system with others: keep it from writing there.
        record = Container(
            id,
            RuntimeName(runtime or self.runtime_name, options),
            oci.encode(spec),
            snapshotter="test",
            snapshot_key=id,
            sandbox_id=sandbox_id,
        )
        self.records.bind(NAMESPACE).containers.records[id] = record
        return id

    def change_spec(self, id: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Alter the specification of a recorded container."""
        records = self.records.bind(NAMESPACE).containers.records
        spec = oci.decode(records[id].spec)
        change(spec)
        records[id] = replace(records[id], spec=oci.encode(spec))

    def shim_pid(self, id: str) -> int:
        """The pid of a task's own shim, as the daemon learnt it."""
        endpoint = Bundle(self.task_folder, NAMESPACE, id).endpoint()
        endpoint = endpoint or Bundle(self.sandbox_folder, NAMESPACE, id).endpoint()
        assert endpoint is not None
        assert endpoint.bootstrap.pid > 0
        return endpoint.bootstrap.pid

    @contextmanager
    def hung(self, id: str) -> Iterator[None]:
        """Stop all processes that a task's shim has, for as long as the block runs."""
        shim = self.shim_pid(id)
        pids = [shim, *workers(shim)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @property
    def sockets(self) -> list[str]:
        """One for each shim of ours that runs."""
        folder = self.daemon.state / "s"
        return os.listdir(folder) if folder.exists() else []

    def topics(self, container_id: str) -> list[str]:
        """The topics of the events of one container, in order."""
        needle = container_id.encode()
        return [event.topic for event in self.events if needle in event.event.value]

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
        """Wait until `condition` holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {seconds} s"
            await asyncio.sleep(0.01)

    def leftovers(self) -> list[str]:
        """What containers and bundles left: processes in cgroups, cgroups, mounts, folders."""
        found = [f"process {pid}" for pid in cgroup_processes(self.cgroup)]
        found += [f"cgroup {path}" for path in cgroups(self.cgroup) if path.name != self.cgroup]
        found += [f"mount {point}" for point in mounts_below(self.folder)]
        for folder in (self.task_folder, self.sandbox_folder):
            found += [f"bundle {path}" for path in folder.glob("*/*")]
            found += [f"bundle {path}" for path in folder.glob("*/.*")]
        return found

    def remove(self) -> None:
        """End whatever is left, by force."""
        sweep(self.folder, self.tag, self.cgroup)
        for id in [*self.records.bind(NAMESPACE).containers.records, "pod"]:
            # Debian's shim has its sockets in a fixed folder, and leaves them when it is killed.
            name = hashlib.sha256(f"{self.daemon.address}/{NAMESPACE}/{id}".encode()).hexdigest()
            (DEBIAN_SOCKETS / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _collect(self, stream: AsyncIterator[Envelope]) -> None:
        async for envelope in stream:
            self.events.append(envelope)
