"""CheckpointContainer."""

from __future__ import annotations

from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.checkpoint.archive import write_archive
from moorage_cri.checkpoint.criu import absolute, require_criu
from moorage_cri.container.execution import running_container
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.sandbox import files


class CheckpointContainer:
    """Writes what a container is to disk."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def CheckpointContainer(
        self, request: cri_pb2.CheckpointContainerRequest, call: Call
    ) -> cri_pb2.CheckpointContainerResponse:
        """A tar archive at `location`: the images of criu in `checkpoint/`, `config.dump` and `spec.dump`. The
        container runs on. On an error there is no archive."""
        cri = self._cri
        container = running_container(cri, request.container_id)
        location = absolute(request.location, "location")
        require_criu()
        folder = cri.container_folder(container.id) / "checkpoint"
        longest = float(request.timeout) if request.timeout > 0 else cri.config.timeout
        async with container.lock, deadline(call, longest, "the checkpoint"):
            try:
                folder.mkdir(mode=0o700)
                await cri.k8s.tasks.checkpoint(container.id, str(folder))
                record = await cri.run(cri.k8s.containers.get, container.id)
                await cri.run(write_archive, str(location), folder, container.config, record.spec)
            finally:
                await cri.run(files.remove, folder)
        return cri_pb2.CheckpointContainerResponse()
