"""CheckpointPod."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from google.protobuf import json_format

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.checkpoint import layout, rootfs
from moorage_cri.checkpoint.criu import absolute, refuse_options, require_criu, require_host_ids
from moorage_cri.checkpoint.frozen import frozen
from moorage_cri.checkpoint.layout import Saved
from moorage_cri.container.execution import running_container
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.model import Container


class CheckpointPod:
    """Writes what several containers of a pod are to disk, as of one moment."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def CheckpointPod(self, request: cri_pb2.CheckpointPodRequest, call: Call) -> cri_pb2.CheckpointPodResponse:
        """Into an empty folder that is there (see `layout`). The containers stand still from before the first is
        captured until the last one is, and run on whatever happens. On an error the folder is empty again."""
        cri = self._cri
        sandbox = cri.sandboxes.get(request.pod_sandbox_id)
        folder = absolute(request.output_path, "output_path")
        refuse_options(request.options)
        require_criu()
        require_host_ids(sandbox)
        async with deadline(call, cri.config.timeout, "the checkpoint"), AsyncExitStack() as held:
            await held.enter_async_context(sandbox.lock)
            if not cri.is_ready(sandbox):
                raise FailedPrecondition(f"pod {sandbox.id} is not ready")
            containers = _selected(cri, sandbox.id, request.container_ids)
            for container in containers:
                await held.enter_async_context(container.lock)
            await cri.run(layout.begin, folder, len(containers))
            try:
                async with frozen(cri, containers):
                    saved = [await self._save(each, folder / str(number)) for number, each in enumerate(containers)]
                await cri.run(layout.finish, folder, saved)
            except BaseException:
                await cri.run(layout.discard, folder)
                raise
        return cri_pb2.CheckpointPodResponse()

    async def _save(self, container: Container, folder: Path) -> Saved:
        cri = self._cri
        image = cri.images.resolve(container.image_id)
        await cri.k8s.tasks.checkpoint(container.id, str(folder / layout.IMAGES))
        layer = await cri.run(rootfs.save, cri, container, image, folder / layout.ROOTFS)
        return Saved(
            name=container.config.metadata.name,
            image=container.image_id,
            config=json_format.MessageToDict(container.config, preserving_proto_field_name=True),
            digest=layer.digest,
            size=layer.size,
        )


def _selected(cri: Cri, sandbox_id: str, ids: Sequence[str]) -> list[Container]:
    """The containers that a caller names, by id, so that two callers take their locks in the same order.

    `InvalidArgument` where none or one twice is named, or one of another pod; `NotFound`; `FailedPrecondition` for one
    that does not run.
    """
    if not ids:
        raise InvalidArgument("no containers are named for the checkpoint")
    found = sorted((running_container(cri, id) for id in ids), key=lambda container: container.id)
    names = {container.config.metadata.name for container in found}
    if len({container.id for container in found}) < len(ids) or len(names) < len(ids):
        raise InvalidArgument("a container is named twice for the checkpoint")
    for container in found:
        if container.sandbox_id != sandbox_id:
            raise InvalidArgument(f"container {container.id} is not of pod {sandbox_id}")
    return found
