"""The creation of a task: a row of steps, undone as a whole when one fails.

If the daemon dies on the way, the bundle has no record yet, and the next start undoes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from moorage_api.containers import Container
from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, Unavailable
from moorage_api.mounts import Mount
from moorage_api.runtime import Process, Stdio
from moorage_api.types import TypedValue, check_identifier
from moorage_api.wire import shim_v3_pb2 as pb
from mooraged.runtime import convert
from mooraged.runtime.bundle import Bundle, Launch, Record
from mooraged.runtime.failures import step
from mooraged.runtime.processes import ProcessState, Task
from mooraged.runtime.resolver import Handler, is_options, parse_options
from mooraged.runtime.shim import Shim
from mooraged.runtime.surroundings import Surroundings
from mooraged.runtime.watcher import Watcher

log = logging.getLogger(__name__)
_UNDO_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; the container's record says the rest. `runtime` replaces the record's runtime name."""

    container_id: str
    rootfs: Sequence[Mount] = ()
    stdio: Stdio = Stdio()  # noqa: RUF009 - frozen
    options: TypedValue | None = None
    checkpoint: str = ""
    runtime: str = ""


class SandboxShims(Protocol):
    """Where to find the shim of a sandbox."""

    def shim(self, namespace: str, id: str) -> tuple[Shim, str] | None:
        """The shim and its launcher's id; None for a sandbox that is not known here. `FailedPrecondition` for one that
        is not ready."""


class Creator:
    """Creates tasks in all namespaces."""

    def __init__(self, surroundings: Surroundings, watcher: Watcher, sandboxes: SandboxShims) -> None:
        self._around = surroundings
        self._watcher = watcher
        self._sandboxes = sandboxes

    async def create(self, namespace: str, request: Request) -> Process:
        """Do all steps. On an error nothing is left; the message names the step."""
        check_identifier(request.container_id, "task id")
        self._around.cgroup_lock.prepare()
        view = self._around.records.bind(namespace)
        container = await asyncio.to_thread(view.containers.get, request.container_id)
        rootfs = request.rootfs
        if not rootfs and container.snapshot_key:
            with step("look up the root file system"):
                snapshotter = view.snapshotter(container.snapshotter)
                rootfs = await asyncio.to_thread(snapshotter.mounts, container.snapshot_key)
        with step("find the runtime"):
            options = request.options if request.options and request.options.value else container.runtime.options
            handler = await self._around.resolver.resolve(request.runtime or container.runtime.name, options)
        found = self._sandboxes.shim(namespace, container.sandbox_id) if container.sandbox_id else None
        task = self._reserve(namespace, container, request, handler, found)
        try:
            return await self._build(task, container, request, rootfs, handler, found[0] if found else None)
        except Exception:
            await self._undo(task)
            raise

    def _reserve(
        self, namespace: str, container: Container, request: Request, handler: Handler, found: tuple[Shim, str] | None
    ) -> Task:
        launch = Launch(
            found[1] if found else handler.launcher_id, handler.runtime, container.sandbox_id if found else ""
        )
        task = Task(
            namespace,
            container.id,
            Bundle(self._around.task_folder, namespace, container.id),
            launch,
            ProcessState(container.id, "", request.stdio),
            created_at=time.time_ns(),
        )
        self._around.ledger.reserve(task)
        self._around.announcer.expect(namespace, container.id, "")
        return task

    async def _build(
        self,
        task: Task,
        container: Container,
        request: Request,
        rootfs: Sequence[Mount],
        handler: Handler,
        sandbox_shim: Shim | None,
    ) -> Process:
        config = self._around.config
        with step("make the bundle"):
            if container.spec is None or not container.spec.value:
                raise InvalidArgument(f"container {container.id} has no spec")
            await asyncio.to_thread(self._make_bundle, task, container.spec.value)
        with step("start the shim"):
            task.shim = sandbox_shim or await self._around.shims.launch(task.bundle, handler)
            if not task.shim.client.connected:
                raise FailedPrecondition(f"the shim of sandbox {task.launch.sandbox_id} is gone")
        with step("create the container"):
            checkpoint = _criu_image_path(handler.options)
            if request.checkpoint:
                checkpoint = await asyncio.to_thread(task.bundle.adopt_checkpoint, request.checkpoint)
            self._around.cgroup_lock.prepare()
            timeout = config.checkpoint_timeout if checkpoint else config.create_timeout
            answer = await task.shim.task.Create(_message(task, request, rootfs, checkpoint, handler), timeout=timeout)
        task.init.pid = answer.pid
        self._watcher.watch(task, task.init)
        with step("record the task"):
            await self._around.shims.identify(task.shim, task.bundle)
            record = Record(answer.pid, task.created_at, request.stdio)
            task.bundle.write_record(record)
        if not task.shim.client.connected:
            raise Unavailable("the shim died")
        task.ready = True
        return task.init.view()

    def _make_bundle(self, task: Task, spec: bytes) -> None:
        if task.bundle.path.exists():
            # The id is reserved, so it belongs to nobody: something that could not be removed earlier.
            task.bundle.remove()
        task.bundle.create(spec, task.launch)

    async def _undo(self, task: Task) -> None:
        """Take back whatever steps were done. Never fails: what stays is logged, and removed by the next start."""
        shim = task.shim
        deleted = False
        if shim is not None and shim.client.connected:
            with suppress(MoorageError):
                await shim.task.Delete(pb.DeleteRequest(id=task.id), timeout=_UNDO_SECONDS)
                deleted = True
            if not shim.sandbox:
                await self._around.shims.shutdown(shim)
        if shim is not None and not deleted:
            clean = self._around.shims.clean if shim.sandbox else self._around.shims.delete
            await clean(task.bundle, task.launch.launcher)
        task.shim = None
        try:
            await asyncio.to_thread(task.bundle.remove)
        except OSError as error:
            log.error("bundle of task %s, whose creation failed, could not be removed: %s", task.id, error)
        self._around.ledger.drop(task)


def _message(
    task: Task, request: Request, rootfs: Sequence[Mount], checkpoint: str, handler: Handler
) -> pb.CreateTaskRequest:
    return pb.CreateTaskRequest(
        id=task.id,
        bundle=str(task.bundle.path),
        rootfs=convert.mount_messages(rootfs),
        terminal=request.stdio.terminal,
        stdin=request.stdio.stdin,
        stdout=request.stdio.stdout,
        stderr=request.stdio.stderr,
        checkpoint=checkpoint,
        options=convert.any_message(handler.options),
    )


def _criu_image_path(options: TypedValue | None) -> str:
    return parse_options(options).criu_image_path if options is not None and is_options(options) else ""
