"""UpdateContainerResources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_api.oci.spec import RESOURCES_URL, decode, encode
from moorage_api.rpc import Call
from moorage_api.types import TypedValue
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.container import resources
from moorage_cri.container.host import host
from moorage_cri.context import Cri
from moorage_cri.metadata import encode_container
from moorage_cri.model import Container
from moorage_cri.nri import lifecycle


class UpdateContainerResources:
    """Changes the limits of containers."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def UpdateContainerResources(
        self, request: cri_pb2.UpdateContainerResourcesRequest, call: Call
    ) -> cri_pb2.UpdateContainerResourcesResponse:
        """What is zero stays as it is. On an error nothing has changed."""
        container = self._cri.containers.get(request.container_id)
        if not request.HasField("linux"):
            raise InvalidArgument("there are no Linux resources to update")
        resources.check(request.linux)
        wishes = lifecycle.Wishes(self._cri)
        async with container.lock, self._cri.nri.gate:
            wanted, extra = await lifecycle.update_container(self._cri, container, request.linux, wishes)
            await update(self._cri, container, wanted, extra)
            await lifecycle.post_update_container(self._cri, container)
        await wishes.granted()
        return cri_pb2.UpdateContainerResourcesResponse()


async def update(
    cri: Cri, container: Container, wanted: cri_pb2.LinuxContainerResources, extra: Mapping[str, Any]
) -> None:
    """Change a container's limits in its control group, its record and the memory, in this order. `extra` are members of
    an OCI `resources` object beyond what the CRI knows. Its lock is held."""
    if container.removing or container.id not in cri.containers:
        raise NotFound(f"container {container.id} is being removed")
    if container.state == cri_pb2.CONTAINER_EXITED:
        raise FailedPrecondition(f"container {container.id} has ended: it has no limits any more")
    config = cri_pb2.ContainerConfig()
    config.CopyFrom(container.config)
    resources.merge(config.linux.resources, wanted)
    found = resources.oci_resources(config.linux.resources, host())
    resources.merge_oci(found, extra)
    record = await cri.run(cri.k8s.containers.get, container.id)
    before = decode(record.spec)
    after: dict[str, Any] = {**before, "linux": {**before["linux"]}}
    after["linux"]["resources"] = dict(before["linux"].get("resources") or {})
    resources.merge_oci(after["linux"]["resources"], found)
    if container.running:
        await cri.k8s.tasks.update(container.id, _limits(found))
    changed = replace(
        record,
        spec=encode(after),
        extensions={labels.CONTAINER_METADATA: encode_container(replace(container, config=config))},
    )
    try:
        await cri.run(cri.k8s.containers.update, changed, ["spec", "extensions"])
    except BaseException:
        if container.running:
            old = resources.oci_resources(container.config.linux.resources, host())
            await cri.k8s.tasks.update(container.id, _limits(old))
        raise
    container.config = config


def _limits(found: dict[str, Any]) -> TypedValue:
    return encode(found, RESOURCES_URL)
