"""Start one process through the OCI runtime, with its streams or its terminal."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import Message

from moorage_api.errors import Internal
from moorage_shim.loop import Future
from moorage_shim.oci import Launch, read_pid
from moorage_shim.process import Process
from moorage_shim.processes import Ended, Forker
from moorage_shim.publisher import Publisher
from moorage_shim.stdio.console import ConsoleSocket
from moorage_shim.stdio.streams import open_streams

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Host:
    """What containers need of the shim."""

    forker: Forker
    publisher: Publisher
    namespace: str
    # The process that the shim is known by.
    pid: int

    def publish(self, topic: str, event: Message) -> None:
        """Publish under `/tasks/`."""
        self.publisher.publish(f"/tasks/{topic}", event)


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Which container, where, and what to do just before the runtime is called; that returns the OOM score for it."""

    container_id: str
    bundle: str
    pid_file: str
    prepare: Callable[[], int | None]


async def launch_process(
    host: Host,
    process: Process,
    request: LaunchRequest,
    run: Callable[[Launch], Awaitable[None]],
    owner: tuple[int, int] = (0, 0),
) -> Future[Ended]:
    """Open the streams, `run` the runtime with them, and learn the pid; returns the process's end.

    On an error the streams are closed. A process that the runtime has made by then is the caller's to undo.
    """
    name = process.exec_id or request.container_id
    process.streams = await open_streams(host.forker, process.stdio, name, host.namespace, owner)
    console: ConsoleSocket | None = None
    try:
        if process.stdio.terminal:
            console = ConsoleSocket(host.forker.loop, request.bundle, str(next(_serial)))
        with host.forker.reaper.launching():
            path = console.path if console is not None else ""
            await run(Launch(request.pid_file, process.streams.child_fds, path, _prepare(request)))
            if console is not None:
                process.streams.attach(await console.receive())
            else:
                process.streams.start()
            process.pid = read_pid(request.pid_file)
            return host.forker.reaper.watch(process.pid, adopted=True)
    except BaseException:
        process.pid = 0
        await process.release()
        raise
    finally:
        if console is not None:
            console.close()
        with suppress(FileNotFoundError):
            os.unlink(request.pid_file)


def _prepare(request: LaunchRequest) -> int | None:
    try:
        return request.prepare()
    except (OSError, ValueError) as error:
        raise Internal(f"the configuration of {request.container_id} can not be used: {error}") from error
