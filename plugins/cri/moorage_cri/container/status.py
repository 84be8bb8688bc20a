"""ContainerStatus and ListContainers: answered from memory."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from moorage_api.errors import NotFound
from moorage_api.oci.spec import decode
from moorage_api.rpc import Call, Encoded
from moorage_api.wire import cri_pb2
from moorage_cri.container import signals
from moorage_cri.context import Cri
from moorage_cri.model import COMPLETED, ERROR, Container
from moorage_cri.selection import matches


class ContainerStatus:
    """Shows containers."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def ContainerStatus(
        self, request: cri_pb2.ContainerStatusRequest, call: Call
    ) -> cri_pb2.ContainerStatusResponse:
        container = self._cri.containers.get(request.container_id)
        info = await self._info(container) if request.verbose else None
        return cri_pb2.ContainerStatusResponse(status=message(self._cri, container), info=info)

    async def ListContainers(self, request: cri_pb2.ListContainersRequest, call: Call) -> Encoded:
        return Encoded(b"".join(self.listed(request.filter)))

    def listed(self, wanted: cri_pb2.ContainerFilter) -> list[bytes]:
        """An answer for each of the containers that a filter means; joined, they are the answer for all."""
        found = self._candidates(wanted)
        if wanted.HasField("state"):
            state = wanted.state.state
            found = [container for container in found if container.state == state]
        if wanted.label_selector:
            found = [container for container in found if matches(container.config.labels, wanted.label_selector)]
        return [_listed(container) for container in found]

    def _candidates(self, wanted: cri_pb2.ContainerFilter) -> list[Container]:
        """Those with the id and in the pod of the filter; either may be the beginning of one."""
        try:
            sandbox = self._cri.sandboxes.get(wanted.pod_sandbox_id).id if wanted.pod_sandbox_id else ""
            found = [self._cri.containers.get(wanted.id)] if wanted.id else list(self._cri.containers)
        except NotFound:
            return []
        return [container for container in found if container.sandbox_id == sandbox] if sandbox else found

    async def _info(self, container: Container) -> dict[str, str]:
        """For people: process, snapshot, configuration and the whole specification."""
        record = await self._cri.run(self._cri.k8s.containers.get, container.id)
        document: dict[str, Any] = {
            "sandboxID": container.sandbox_id,
            "pid": container.run.pid,
            "removing": container.removing,
            "snapshotKey": record.snapshot_key,
            "snapshotter": record.snapshotter,
            "runtimeType": record.runtime.name,
            "config": json_format.MessageToDict(container.config, preserving_proto_field_name=True),
            "runtimeSpec": decode(record.spec),
        }
        return {"info": json.dumps(document)}


def message(cri: Cri, container: Container) -> cri_pb2.ContainerStatus:
    """What is known of a container now."""
    config, run, state = container.config, container.run, container.state
    tags, digests = _references(cri, container)
    started = state != cri_pb2.CONTAINER_CREATED
    resources = cri_pb2.ContainerResources(linux=config.linux.resources) if config.linux.HasField("resources") else None
    return cri_pb2.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=state,
        created_at=container.created_at,
        started_at=run.started_at if started else 0,
        finished_at=run.finished_at if started else 0,
        exit_code=run.exit_code,
        image=cri_pb2.ImageSpec(image=tags[0]) if tags else config.image,
        image_ref=digests[0] if digests else container.image_id,
        image_id=container.image_id,
        reason=_reason(container),
        message=run.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=container.log_path,
        resources=resources,
        user=cri_pb2.ContainerUser(linux=container.user),
        stop_signal=signals.cri_signal(container.stop_signal),
    )


def _references(cri: Cri, container: Container) -> tuple[list[str], list[str]]:
    """The names of the container's image; none where it was removed meanwhile."""
    try:
        image = cri.images.resolve(container.image_id)
    except NotFound:
        return [], []
    return image.repo_tags, image.repo_digests


def _reason(container: Container) -> str:
    """Why it ended; OOMKilled and StartError are noted when they happen."""
    if container.state != cri_pb2.CONTAINER_EXITED or container.run.reason:
        return container.run.reason
    return COMPLETED if container.run.exit_code == 0 else ERROR


def _listed(container: Container) -> bytes:
    state, answer = container.listed
    if state != container.state:
        answer = cri_pb2.ListContainersResponse(containers=[_item(container)]).SerializeToString()
        container.listed = (container.state, answer)
    return answer


def _item(container: Container) -> cri_pb2.Container:
    config = container.config
    return cri_pb2.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=config.metadata,
        image=config.image,
        image_ref=container.image_id,
        image_id=container.image_id,
        state=container.state,
        created_at=container.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )
