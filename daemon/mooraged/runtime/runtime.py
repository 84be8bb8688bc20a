"""The runtime of a daemon: its parts put together, started and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from moorage_api.convert import typed_value
from moorage_api.core import Daemon
from moorage_api.errors import InvalidArgument
from moorage_api.events import Envelope, EventBus
from moorage_api.shim import ShimLauncher
from moorage_api.types import TypedValue, check_identifier
from moorage_api.wire.types_pb2 import RuntimeRequest
from mooraged.runtime.announcer import Announcer
from mooraged.runtime.cgroup_lock import CgroupLock
from mooraged.runtime.config import RuntimeConfig
from mooraged.runtime.creation import Creator
from mooraged.runtime.deletion import Deleter
from mooraged.runtime.jobs import Jobs
from mooraged.runtime.ledger import Ledger
from mooraged.runtime.oci_runtime import DefaultRuntime
from mooraged.runtime.recovery import Recovery
from mooraged.runtime.resolver import Resolver
from mooraged.runtime.sandboxes import NamespacedSandboxes, Sandboxes
from mooraged.runtime.shim import Shim
from mooraged.runtime.shims import Shims
from mooraged.runtime.surroundings import Records, Surroundings
from mooraged.runtime.tasks import NamespacedTasks
from mooraged.runtime.watcher import Watcher

log = logging.getLogger(__name__)
# A shim's socket is named by a hash of at most 64 digits; a Unix socket's path has at most 107 bytes.
_SOCKET_DIR_MAX = 107 - 1 - 64


class Runtime:
    """The instance of the RUNTIME plugin `task`."""

    def __init__(
        self,
        daemon: Daemon,
        config: RuntimeConfig,
        bus: EventBus,
        records: Records,
        launchers: Mapping[str, ShimLauncher],
        task_folder: Path,
        sandbox_folder: Path,
    ) -> None:
        jobs = Jobs()
        self._default = DefaultRuntime(config.oci_runtimes, jobs)
        resolver = Resolver(config, launchers, self._default, daemon.state / "oci")
        ledger = Ledger()
        announcer = Announcer(bus)
        shims = Shims(daemon, config, resolver, _socket_dir(daemon, config), self._on_death)
        self._around = Surroundings(
            config,
            bus,
            records,
            task_folder,
            sandbox_folder,
            ledger,
            announcer,
            jobs,
            resolver,
            shims,
            CgroupLock(),
        )
        self._watcher = Watcher(ledger, announcer, bus)
        self._deleter = Deleter(self._around)
        self._sandboxes = Sandboxes(self._around, self._deleter)
        self._recovery = Recovery(self._around, self._sandboxes, self._deleter, self._watcher)
        self._creator = Creator(self._around, self._watcher, self._sandboxes)

    def tasks(self, namespace: str) -> NamespacedTasks:
        """The tasks of one namespace. `InvalidArgument`."""
        check_identifier(namespace, "namespace")
        return NamespacedTasks(namespace, self._around, self._creator, self._deleter, self._watcher)

    def sandboxes(self, namespace: str) -> NamespacedSandboxes:
        """The sandboxes of one namespace. `InvalidArgument`."""
        check_identifier(namespace, "namespace")
        return NamespacedSandboxes(namespace, self._sandboxes, self._around)

    async def plugin_info(self, request: TypedValue) -> TypedValue:
        """`containerd.types.RuntimeInfo` of the runtime that a `RuntimeRequest` names, or of the default one."""
        expected = RuntimeRequest.DESCRIPTOR.full_name
        if request.type_url.rpartition("/")[2] != expected:
            raise InvalidArgument(f"the request is {request.type_url!r}: expected {expected}")
        try:
            asked = RuntimeRequest.FromString(request.value)
        except DecodeError as error:
            raise InvalidArgument(f"the request is no {expected}") from error
        found = await self._around.resolver.info(asked.runtime_path, typed_value(asked.options))
        return TypedValue(found.DESCRIPTOR.full_name, found.SerializeToString())

    async def forward(self, envelope: Envelope) -> None:
        """Take an event from a shim: what it says is known first, then told. `InvalidArgument`."""
        await self._recovery.known()
        self._watcher.forwarded(envelope)

    async def start(self) -> None:
        """Look for the OCI runtime, and recover what an earlier daemon left."""
        for folder in (self._around.task_folder, self._around.sandbox_folder):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.chmod(0o711)  # so that the root of a user namespace reaches its root file system
        self._default.start()
        await self._recovery.run()

    async def stop(self) -> None:
        """Let go of all shims; containers run on."""
        self._around.announcer.close()
        self._around.cgroup_lock.close()
        await self._around.jobs.close()
        self._around.shims.close()
        self._around.resolver.close()

    def _on_death(self, shim: Shim, reason: str) -> None:
        self._around.jobs.start(self._bury(shim, reason), f"bury the shim of {shim.request.id}")

    async def _bury(self, shim: Shim, reason: str) -> None:
        # It may be that only its connection has gone; then it must not fight with the clean-up.
        shim.kill()
        if shim.sandbox:
            await self._sandboxes.lost(shim, reason)
        else:
            tasks = self._around.ledger.of_shim(shim)
            await asyncio.gather(*(self._deleter.bury(task, reason) for task in tasks))


def _socket_dir(daemon: Daemon, config: RuntimeConfig) -> Path:
    folder = Path(config.socket_dir) if config.socket_dir else daemon.state / "s"
    if not folder.is_absolute():
        raise InvalidArgument(f"socket_dir {str(folder)!r} must be absolute")
    if len(os.fsencode(folder)) > _SOCKET_DIR_MAX:
        raise InvalidArgument(
            f"{folder} is too long a path for sockets of shims, {_SOCKET_DIR_MAX} bytes at most: set socket_dir"
        )
    return folder
