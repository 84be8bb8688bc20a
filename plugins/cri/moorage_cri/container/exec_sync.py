"""ExecSync."""

from __future__ import annotations

import asyncio
import logging
import secrets

from moorage_api.errors import DeadlineExceeded, InvalidArgument, MoorageError
from moorage_api.rpc import Call
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri.container.exec_io import Capture
from moorage_cri.container.execution import check_command, discard, exec_folder, process_spec, running_container
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.undo import Undo

logger = logging.getLogger(__name__)

# Bytes of output that are kept: what fits into one message of 16 MiB, the most that a kubelet takes.
_OUTPUT_MAX = (16 << 20) - (4 << 10)


class ExecSync:
    """Runs a command in a container and returns what it wrote. Bounded in bytes and time; ends with its caller."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def ExecSync(self, request: cri_pb2.ExecSyncRequest, call: Call) -> cri_pb2.ExecSyncResponse:
        """A command that does not end in time is killed: `DeadlineExceeded`."""
        check_command(request.cmd)
        if request.timeout < 0:
            raise InvalidArgument(f"the timeout must not be negative: {request.timeout}")
        container = running_container(self._cri, request.container_id)
        process = await process_spec(self._cri, container, request.cmd)
        limit = asyncio.timeout(float(request.timeout) or None)
        try:
            async with limit:
                return await self._run(container, process)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded(f"the command did not end within {request.timeout} s and was killed") from error

    async def _run(self, container: Container, process: TypedValue) -> cri_pb2.ExecSyncResponse:
        tasks = self._cri.k8s.tasks
        exec_id = secrets.token_hex(16)
        capture = Capture(exec_folder(self._cri, container.id, exec_id), _OUTPUT_MAX)
        try:
            capture.open()
            async with Undo(f"exec {exec_id} in container {container.id}") as undo:
                undo.push("process", lambda: discard(self._cri, container.id, exec_id))
                await tasks.exec(container.id, exec_id, process, capture.stdio)
                await tasks.start(container.id, exec_id)
                capture.release()
                ended = await tasks.wait(container.id, exec_id)
                await capture.drain(self._cri.config.drain_exec_sync_io_timeout)
            stdout, stderr = capture.output
            stderr = stderr[: _OUTPUT_MAX - len(stdout)]
            return cri_pb2.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=ended.status)
        finally:
            capture.close()
            self._cri.background.start(f"end of command {exec_id}", self._forget(container.id, exec_id, capture))

    async def _forget(self, id: str, exec_id: str, capture: Capture) -> None:
        """Nobody need wait for this. The folder comes last: by it, a later run of the daemon knows of the command."""
        try:
            await self._cri.k8s.tasks.delete(id, exec_id)
        except MoorageError as error:
            # It is gone with its container, or was killed and forgotten already.
            logger.debug("command %s in container %s: %s", exec_id, id, error)
        capture.remove()
