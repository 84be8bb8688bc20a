"""What plugins are asked, and told, at each step in the life of pods and containers.

An error of a plugin's fails what is about to happen (a pod is run or updated, a container is created, started or
updated). What has happened is told, and errors are noted. What a plugin wants of other containers is begun at once, and
finished with no lock held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message

from moorage_api.errors import MoorageError
from moorage_api.oci.spec import Spec
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.container import resources
from moorage_cri.container.host import host
from moorage_cri.context import Cri
from moorage_cri.model import Container, Sandbox
from moorage_cri.nri import adjust, describe
from moorage_cri.nri.merge import Updates
from moorage_cri.nri.resources import from_cri, to_cri, to_oci

logger = logging.getLogger(__name__)


class Wishes:
    """What plugins want of other containers while a call is under way. It is begun when they say it; what fails is noted,
    and fails no call."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._tasks: list[asyncio.Task[Any]] = []

    def begin(self, updates: Updates) -> None:
        if updates.others or updates.evictions:
            work = _change(self._cri, updates)
            self._tasks.append(self._cri.background.spawn("updates of containers", work))

    async def granted(self) -> None:
        """Wait until all of it is done. To be called outside of every lock: a container may be held by who waits for it."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def run_pod(cri: Cri, sandbox: Sandbox) -> None:
    """A pod is about to be ready. When this fails, those that know of it have been told that it is gone."""
    if cri.nri.idle:
        return
    cri.nri.ledger.add(sandbox.id)
    request = pb.RunPodSandboxRequest(pod=describe.pod(cri, sandbox))
    await cri.nri.chain.tell(pb.RUN_POD_SANDBOX, "RunPodSandbox", request, pb.RunPodSandboxResponse)


async def forget_pod(cri: Cri, sandbox: Sandbox) -> None:
    """A pod is taken back that was never ready."""
    await stop_pod(cri, sandbox)
    await remove_pod(cri, sandbox)


async def update_pod(cri: Cri, sandbox: Sandbox, wanted: cri_pb2.UpdatePodSandboxResourcesRequest) -> None:
    """A pod's resources are about to change."""
    if cri.nri.idle:
        return
    request = pb.UpdatePodSandboxRequest(
        pod=describe.pod(cri, sandbox),
        overhead_linux_resources=from_cri(wanted.overhead) if wanted.HasField("overhead") else None,
        linux_resources=from_cri(wanted.resources) if wanted.HasField("resources") else None,
    )
    await cri.nri.chain.tell(pb.UPDATE_POD_SANDBOX, "UpdatePodSandbox", request, pb.UpdatePodSandboxResponse)


async def post_update_pod(cri: Cri, sandbox: Sandbox) -> None:
    """A pod's resources have changed."""
    if not cri.nri.idle:
        request = pb.PostUpdatePodSandboxRequest(pod=describe.pod(cri, sandbox))
        await _note(cri, pb.POST_UPDATE_POD_SANDBOX, "PostUpdatePodSandbox", request, pb.PostUpdatePodSandboxResponse)


async def stop_pod(cri: Cri, sandbox: Sandbox) -> None:
    """A pod's containers have ended, and its network is about to be taken down. It is told once."""
    if cri.nri.ledger.stop(sandbox.id) and not cri.nri.idle:
        async with cri.nri.gate:
            request = pb.StopPodSandboxRequest(pod=describe.pod(cri, sandbox))
            await _note(cri, pb.STOP_POD_SANDBOX, "StopPodSandbox", request, pb.StopPodSandboxResponse)


async def remove_pod(cri: Cri, sandbox: Sandbox) -> None:
    """A pod is gone. It is told once."""
    if cri.nri.ledger.remove(sandbox.id) and not cri.nri.idle:
        request = pb.RemovePodSandboxRequest(pod=describe.pod(cri, sandbox))
        await _note(cri, pb.REMOVE_POD_SANDBOX, "RemovePodSandbox", request, pb.RemovePodSandboxResponse)


async def create(cri: Cri, sandbox: Sandbox, container: Container, spec: Spec, wishes: Wishes) -> None:
    """A container is about to be made: `spec` becomes as plugins want it, and so do the limits that are shown of it.

    `InvalidArgument` and `FailedPrecondition` for what cannot be, `PermissionDenied` from a validator, or an error of a
    plugin's; those that know of the container are then to be told that it is gone (`forget_container`).
    """
    if cri.nri.idle:
        return
    cri.nri.ledger.add(container.id)
    request = pb.CreateContainerRequest(pod=describe.pod(cri, sandbox), container=describe.container(container, spec))
    request.container.state = pb.CONTAINER_UNKNOWN
    creation = await cri.nri.chain.create(request)
    wishes.begin(creation.updates)
    if not creation.adjustment.ListFields():
        return
    await cri.run(_adjust, cri, spec, creation.adjustment)
    await cri.run(cri.cdi.inject, spec, [device.name for device in creation.adjustment.CDI_devices])
    shown = to_cri(creation.adjustment.linux.resources)
    if shown.ListFields():
        container.config = _with_resources(container.config, shown)


def _adjust(cri: Cri, spec: Spec, adjustment: pb.ContainerAdjustment) -> None:
    """What comes with a vendor's devices may be adjusted, too."""
    cri.cdi.inject(spec, [device.name for device in adjustment.CDI_devices])
    adjust.apply(spec, adjustment, host())


async def post_create(cri: Cri, container: Container) -> None:
    """A container has been made, and can be seen."""
    if not cri.nri.idle:
        async with cri.nri.gate:
            request = pb.PostCreateContainerRequest(**await _both(cri, container))
            await _note(cri, pb.POST_CREATE_CONTAINER, "PostCreateContainer", request, pb.PostCreateContainerResponse)


async def forget_container(cri: Cri, container: Container) -> None:
    """A container is taken back that was never seen."""
    await stop_container(cri, container)
    await remove_container(cri, container)


async def start(cri: Cri, container: Container, pid: int) -> None:
    """A container's process is about to run."""
    if not cri.nri.idle:
        request = pb.StartContainerRequest(**await _both(cri, container, pid))
        await cri.nri.chain.tell(pb.START_CONTAINER, "StartContainer", request, pb.StartContainerResponse)


async def post_start(cri: Cri, container: Container) -> None:
    """A container's process runs. One whose end has been told already is left out."""
    if cri.nri.idle:
        return
    request = pb.PostStartContainerRequest(**await _both(cri, container))
    live = partial(cri.nri.ledger.live, container.id)
    await _note(cri, pb.POST_START_CONTAINER, "PostStartContainer", request, pb.PostStartContainerResponse, live)


async def update_container(
    cri: Cri, container: Container, wanted: cri_pb2.LinuxContainerResources, wishes: Wishes
) -> tuple[cri_pb2.LinuxContainerResources, Mapping[str, Any]]:
    """A container's limits are about to change. Returns them as plugins want them, and what of that the CRI does not
    know, as members of an OCI `resources` object. Errors as `create`."""
    if cri.nri.idle:
        return wanted, {}
    request = pb.UpdateContainerRequest(**await _both(cri, container), linux_resources=from_cri(wanted))
    updates = await cri.nri.chain.update(request)
    wishes.begin(updates)
    if not updates.changed:
        return wanted, {}
    changed = cri_pb2.LinuxContainerResources()
    changed.CopyFrom(wanted)
    resources.merge(changed, to_cri(request.linux_resources))
    resources.check(changed)
    return changed, to_oci(request.linux_resources, swap=host().swap)


async def post_update_container(cri: Cri, container: Container) -> None:
    """A container's limits have changed."""
    if not cri.nri.idle:
        request = pb.PostUpdateContainerRequest(**await _both(cri, container))
        await _note(cri, pb.POST_UPDATE_CONTAINER, "PostUpdateContainer", request, pb.PostUpdateContainerResponse)


async def stop_container(cri: Cri, container: Container) -> None:
    """A container has ended, or is not going to run. It is told once, and has been when this returns or, at the latest,
    before anything else that is told then."""
    ledger = cri.nri.ledger
    if not ledger.live(container.id):
        return
    if cri.nri.idle:
        ledger.stop(container.id)
        return
    async with cri.nri.gate:
        request = pb.StopContainerRequest(**await _both(cri, container))
        try:
            updates = await cri.nri.chain.stop(request, due=lambda: ledger.stop(container.id))
        except MoorageError as error:
            logger.warning("%s", error)
            return
    if updates.others:
        cri.background.start("updates of containers", _change(cri, updates))


async def remove_container(cri: Cri, container: Container) -> None:
    """A container is about to be removed, and has been stopped. It is told once."""
    if cri.nri.ledger.remove(container.id) and not cri.nri.idle:
        async with cri.nri.gate:
            request = pb.RemoveContainerRequest(**await _both(cri, container))
            await _note(cri, pb.REMOVE_CONTAINER, "RemoveContainer", request, pb.RemoveContainerResponse)


async def _both(cri: Cri, container: Container, pid: int = 0) -> dict[str, Any]:
    """The members of a request about a container: its pod, and itself."""
    spec = await cri.run(describe.spec_of, cri, container.id)
    pod = pb.PodSandbox(id=container.sandbox_id)
    if container.sandbox_id in cri.sandboxes:
        pod = describe.pod(cri, cri.sandboxes.get(container.sandbox_id))
    return {"pod": pod, "container": describe.container(container, spec, pid)}


async def _note(
    cri: Cri,
    event: pb.Event.ValueType,
    method: str,
    request: Message,
    answer: type[Message],
    due: Callable[[], bool] = lambda: True,
) -> None:
    """Tell what cannot be changed any more."""
    try:
        await cri.nri.chain.tell(event, method, request, answer, due)
    except MoorageError as error:
        logger.warning("%s", error)


async def _change(cri: Cri, updates: Updates) -> None:
    """Those of one container are made in the order in which they are begun."""
    await cri.nri.change("(several)", updates.others, updates.evictions)


def _with_resources(
    config: cri_pb2.ContainerConfig, wanted: cri_pb2.LinuxContainerResources
) -> cri_pb2.ContainerConfig:
    changed = cri_pb2.ContainerConfig()
    changed.CopyFrom(config)
    resources.merge(changed.linux.resources, wanted)
    return changed
