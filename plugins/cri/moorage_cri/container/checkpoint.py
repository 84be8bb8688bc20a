"""CheckpointContainer, CheckpointPod and RestorePod."""

from __future__ import annotations

import os
import shutil

from moorage_api.errors import FailedPrecondition, InvalidArgument, Unimplemented
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.container.archive import write_archive
from moorage_cri.container.execution import running_container
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.sandbox import files

_CRIU = "criu"


class Checkpoint:
    """Writes what containers are to disk, through criu."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def CheckpointContainer(
        self, request: cri_pb2.CheckpointContainerRequest, call: Call
    ) -> cri_pb2.CheckpointContainerResponse:
        """A tar archive at `location`: the images of criu in `checkpoint/`, `config.dump` and `spec.dump`. The
        container runs on. On an error there is no archive."""
        cri = self._cri
        container = running_container(cri, request.container_id)
        if not os.path.isabs(request.location):
            raise InvalidArgument(f"location {request.location[:80]!r} is not an absolute path")
        _require_criu()
        folder = cri.container_folder(container.id) / "checkpoint"
        longest = float(request.timeout) if request.timeout > 0 else cri.config.timeout
        async with container.lock, deadline(call, longest, "the checkpoint"):
            try:
                folder.mkdir(mode=0o700)
                await cri.k8s.tasks.checkpoint(container.id, str(folder))
                record = await cri.run(cri.k8s.containers.get, container.id)
                await cri.run(write_archive, request.location, folder, container.config, record.spec)
            finally:
                await cri.run(files.remove, folder)
        return cri_pb2.CheckpointContainerResponse()

    async def CheckpointPod(self, request: cri_pb2.CheckpointPodRequest, call: Call) -> cri_pb2.CheckpointPodResponse:
        """criu cannot freeze the namespaces that the containers of a pod share, as one: see `CheckpointContainer`."""
        self._cri.sandboxes.get(request.pod_sandbox_id)
        _require_criu()
        raise Unimplemented("criu checkpoints single containers: call CheckpointContainer for each of the pod's")

    async def RestorePod(self, request: cri_pb2.RestorePodRequest, call: Call) -> cri_pb2.RestorePodResponse:
        if not request.checkpoint_path:
            raise InvalidArgument("the path of the checkpoint is empty")
        _require_criu()
        raise Unimplemented("checkpoints of whole pods are not written here, so there is none to restore")


def _require_criu() -> None:
    if shutil.which(_CRIU) is None:
        raise FailedPrecondition("checkpoints need criu, which is not installed on this host")
