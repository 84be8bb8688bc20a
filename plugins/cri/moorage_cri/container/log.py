"""ReopenContainerLog."""

from __future__ import annotations

from pathlib import Path

from moorage_api.errors import FailedPrecondition
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri


class ReopenContainerLog:
    """Makes a shim open a container's log anew, after a rotation renamed it."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def ReopenContainerLog(
        self, request: cri_pb2.ReopenContainerLogRequest, call: Call
    ) -> cri_pb2.ReopenContainerLogResponse:
        container = self._cri.containers.get(request.container_id)
        if not container.running:
            raise FailedPrecondition(f"container {container.id} is not running")
        if container.log_path and self._cri.sandboxes.get(container.sandbox_id).own_shim:
            await self._cri.k8s.tasks.reopen_log(container.id)
        elif container.log_path:
            # The program that writes it sees that the file is another one.
            await self._cri.run(Path(container.log_path).touch, 0o640)
        return cri_pb2.ReopenContainerLogResponse()
