"""StartContainer."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from urllib.parse import quote

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound
from moorage_api.rpc import Call
from moorage_api.runtime import Stdio
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2, runc_options_pb2
from moorage_cri import events
from moorage_cri.config import RUNC_OPTIONS
from moorage_cri.container import journal, restored
from moorage_cri.container.ending import ended
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.model import START_ERROR, START_ERROR_EXIT_CODE, Container
from moorage_cri.nri import lifecycle
from moorage_cri.undo import Undo

logger = logging.getLogger(__name__)

_LOGGER = "containerd-shim-moorage-v2"
_NULL = f"file://{os.devnull}"


class StartContainer:
    """Starts containers: makes the task in the pod's shim, and runs it."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def StartContainer(
        self, request: cri_pb2.StartContainerRequest, call: Call
    ) -> cri_pb2.StartContainerResponse:
        cri = self._cri
        container = cri.containers.get(request.container_id)
        async with container.lock, cri.nri.gate:
            self._check(container)
            try:
                async with (
                    Undo(f"container {container.id}") as undo,
                    deadline(call, cri.config.timeout, "starting the container"),
                ):
                    await self._start(container, undo)
            except BaseException as error:
                await self._failed(container, error)
                raise
            if container.running:
                self._note(container)
            await lifecycle.post_start(cri, container)
        return cri_pb2.StartContainerResponse()

    def _note(self, container: Container) -> None:
        """Write down that it runs. The news of its end may come meanwhile, and is to be written after it.

        Nobody waits for it: it is not synced, and a daemon that was killed before it was written finds the task in its shim.
        """
        saving = self._cri.run(journal.save, self._cri.container_folder(container.id), container.run)
        container.aftermath = self._cri.background.spawn(f"start of container {container.id}", saving)

    def _check(self, container: Container) -> None:
        if container.removing or container.id not in self._cri.containers:
            raise NotFound(f"container {container.id} is being removed")
        if container.state != cri_pb2.CONTAINER_CREATED:
            state = cri_pb2.ContainerState.Name(container.state)
            raise FailedPrecondition(f"container {container.id} is in state {state}, and starts only once")
        sandbox = self._cri.sandboxes.get(container.sandbox_id)
        if not self._cri.is_ready(sandbox):
            raise FailedPrecondition(f"pod {sandbox.id} is not ready")

    async def _start(self, container: Container, undo: Undo) -> None:
        cri, tasks = self._cri, self._cri.k8s.tasks
        checkpoint = restored.images(cri.container_folder(container.id)) if container.restored else ""
        stdio = await cri.run(_stdio, cri, container)
        undo.push("task", lambda: discard_task(cri, container.id))
        options = _options(cri, container)
        process = await tasks.create(container.id, stdio=stdio, options=options, checkpoint=checkpoint)
        await lifecycle.start(cri, container, process.pid)
        started_at = time.time_ns()
        pid = await tasks.start(container.id)
        early = container.run.started_at != 0
        container.run.started_at = started_at
        if not early:
            events.tell(cri, container, events.STARTED)
        # The news of its end may be here already; then there is no process.
        if not container.run.finished_at:
            container.run.pid = pid

    async def _failed(self, container: Container, error: BaseException) -> None:
        """A container that could not be started has ended, and says why."""
        run = container.run
        run.pid = 0
        run.exit_code = START_ERROR_EXIT_CODE
        run.reason = START_ERROR
        run.message = str(error) or "the start was cancelled"
        run.finished_at = time.time_ns()
        container.stopped.set()
        ended(self._cri, container)
        await self._cri.run(journal.save, self._cri.container_folder(container.id), run, sync=True)


async def discard_task(cri: Cri, id: str) -> None:
    """Kill a task, if there is one, and remove it."""
    tasks = cri.k8s.tasks
    try:
        with suppress(NotFound):
            await tasks.kill(id, signal.SIGKILL, all=True)
            await tasks.wait(id)
    except MoorageError as error:
        logger.debug("task %s could not be killed: %s", id, error)
    with suppress(NotFound):
        await tasks.delete(id)


def _log_uri(path: str, *, own_shim: bool) -> str:
    """Other shims hand the output to a program, which writes the log."""
    if own_shim:
        return f"cri://{quote(path)}"
    return f"binary://{os.path.join(os.path.dirname(sys.executable), _LOGGER)}?cri-log={quote(path, safe='')}"


def _options(cri: Cri, container: Container) -> TypedValue | None:
    """In a user namespace the pipes of a container belong to its user there, or it could not open its own /dev/stdout
    again. Otherwise the options are those of the record."""
    sandbox = cri.sandboxes.get(container.sandbox_id)
    user = sandbox.user_namespace
    if user is None:
        return None
    kept = sandbox.runtime.options
    options = runc_options_pb2.Options.FromString(kept.value if kept is not None else b"")
    options.io_uid = user.uids.to_host(container.user.uid)
    options.io_gid = user.gids.to_host(container.user.gid)
    return TypedValue(RUNC_OPTIONS, options.SerializeToString())


def _stdio(cri: Cri, container: Container) -> Stdio:
    """Both streams go into the log, which the shim writes; without a log to the null device, by way of the shim, too, so
    that clients can attach. A standard input that is
    asked for is a FIFO, which the shim holds open."""
    tty = container.config.tty
    stdin = ""
    if container.config.stdin:
        path = cri.stdin_path(container.id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.mkfifo(path, 0o600)
        stdin = str(path)
    if not container.log_path:
        return Stdio(stdin=stdin, stdout=_NULL, stderr="" if tty else _NULL, terminal=tty)
    os.makedirs(os.path.dirname(container.log_path), mode=0o750, exist_ok=True)
    uri = _log_uri(container.log_path, own_shim=cri.sandboxes.get(container.sandbox_id).own_shim)
    return Stdio(stdin=stdin, stdout=uri, stderr="" if tty else uri, terminal=tty)
