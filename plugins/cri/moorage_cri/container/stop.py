"""StopContainer and RemoveContainer: idempotent, so that an unknown container is one that is gone."""

from __future__ import annotations

from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.container import removal, stopping
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.nri import lifecycle


class StopContainer:
    """Stops and removes containers."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def StopContainer(self, request: cri_pb2.StopContainerRequest, call: Call) -> cri_pb2.StopContainerResponse:
        if request.timeout < 0:
            raise InvalidArgument(f"the timeout must not be negative: {request.timeout}")
        container = self._find(request.container_id)
        if container is not None:
            await stopping.stop(self._cri, container, float(request.timeout))
            if container.run.finished_at:
                await lifecycle.stop_container(self._cri, container)
            await stopping.buried(container)
        return cri_pb2.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri_pb2.RemoveContainerRequest, call: Call
    ) -> cri_pb2.RemoveContainerResponse:
        container = self._find(request.container_id)
        if container is not None:
            await removal.remove(self._cri, container)
        return cri_pb2.RemoveContainerResponse()

    def _find(self, id: str) -> Container | None:
        try:
            return self._cri.containers.get(id)
        except NotFound:
            return None
