"""A shim that runs: the connection to it, its stubs, and the means to end it."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from moorage_api.errors import MoorageError, Unimplemented
from moorage_api.shim import ShimLauncher, ShimRequest
from moorage_api.types import TypedValue
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert
from mooraged.runtime.bundle import Endpoint
from mooraged.runtime.pause import PauseConnection
from mooraged.runtime.stubs import LogsStub, SandboxStub, StreamsStub, TaskStub
from mooraged.runtime.ttrpc_client import TtrpcClient

log = logging.getLogger(__name__)
_ENDED = frozenset({"Z", "X"})
_START_TIME = 19  # /proc/PID/stat: field 22, counted from zero behind the command's name


class Shim:
    """One connected shim. `sandbox` tells whether it outlives its tasks."""

    def __init__(
        self, client: TtrpcClient, endpoint: Endpoint, launcher: ShimLauncher, request: ShimRequest, *, sandbox: bool
    ) -> None:
        self.client = client
        self.endpoint = endpoint
        self.launcher = launcher
        self.request = request
        self.sandbox = sandbox
        self.task = TaskStub(client, request.namespace, endpoint.bootstrap.version)
        self.sandboxes = SandboxStub(client, request.namespace)
        self.logs = LogsStub(client, request.namespace)
        self.streams = StreamsStub(client, request.namespace)

    def keep_pause(self, options: TypedValue | None = None) -> None:
        """Have a task keep the sandbox from now on: the shim knows no sandboxes."""
        connection = PauseConnection(self.task, convert.any_message(options))
        self.sandboxes = SandboxStub(connection, self.request.namespace)

    @classmethod
    async def connect(
        cls,
        endpoint: Endpoint,
        launcher: ShimLauncher,
        request: ShimRequest,
        on_death: Callable[[Shim, str], None],
        *,
        sandbox: bool,
        timeout: float,
    ) -> Shim:
        """Connect to a shim. `on_death` is called with the reason when it goes unasked. `Unavailable`,
        `DeadlineExceeded`; `Unimplemented` for a shim that speaks something else than ttrpc."""
        bootstrap = endpoint.bootstrap
        if bootstrap.protocol != "ttrpc" or bootstrap.version not in (2, 3):
            raise Unimplemented(f"shim of {request.id} speaks {bootstrap.protocol} version {bootstrap.version}")
        shim: Shim | None = None

        def died(reason: str) -> None:
            if shim is not None:
                on_death(shim, reason)

        client = await TtrpcClient.connect(bootstrap.address, died, timeout)
        shim = cls(client, endpoint, launcher, request, sandbox=sandbox)
        return shim

    async def shutdown(self, timeout: float, *, force: bool) -> None:
        """Ask the shim to end; with `force`, see to it that it has after `timeout` seconds. Never fails."""
        self.client.expect_end()
        try:
            async with asyncio.timeout(timeout):
                with suppress(MoorageError):
                    await self.task.Shutdown(pb.ShutdownRequest(id=self.request.id), timeout=timeout)
                if force:
                    await self.client.ended()
        except TimeoutError:
            log.warning("shim of %s did not shut down within %g s", self.request.id, timeout)
            if force:
                self.kill()
        self.client.close()

    def kill(self) -> None:
        """SIGKILL, where its process is known and has not been replaced by another. What it leaves is the launcher's
        to delete."""
        kill_process(self.endpoint.bootstrap.pid, self.endpoint.started)


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (proc_pid_stat(5)); zero when there is none, or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in _ENDED else int(fields[_START_TIME])


def kill_process(pid: int, started: int, patience: float = 0.0) -> bool:
    """SIGKILL the process `pid` if it is the one that started at `started`; False where it is not.

    Waits up to `patience` seconds until it is gone.
    """
    if pid <= 1 or not started:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if start_time(pid) != started:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(patience * 1000)
        return True
    finally:
        os.close(pidfd)
