"""ExecSync."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

from moorage_api.errors import DeadlineExceeded, InvalidArgument, NotFound
from moorage_api.rpc import Call
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri.container.exec_io import Capture
from moorage_cri.container.execution import check_command, discard, exec_folder, process_spec, running_container
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.undo import Undo

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
        process = await process_spec(self._cri, container.id, request.cmd)
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
                with suppress(NotFound):
                    await tasks.delete(container.id, exec_id)
            stdout, stderr = capture.output
            stderr = stderr[: _OUTPUT_MAX - len(stdout)]
            return cri_pb2.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=ended.status)
        finally:
            capture.close()
