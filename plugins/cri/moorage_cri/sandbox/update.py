"""UpdatePodSandboxResources."""

from __future__ import annotations

from dataclasses import replace

from moorage_api.errors import FailedPrecondition
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri import labels
from moorage_cri.container import resources
from moorage_cri.context import Cri
from moorage_cri.metadata import encode_sandbox
from moorage_cri.nri import lifecycle


class UpdatePodSandboxResources:
    """Takes note of what a pod may use as a whole."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def UpdatePodSandboxResources(
        self, request: cri_pb2.UpdatePodSandboxResourcesRequest, call: Call
    ) -> cri_pb2.UpdatePodSandboxResourcesResponse:
        """A pod has no process of its own: the kubelet sets the limits of its control group, and those of its
        containers come with UpdateContainerResources. What is kept here is what plugins and restarts read."""
        cri = self._cri
        sandbox = cri.sandboxes.get(request.pod_sandbox_id)
        resources.check(request.overhead)
        resources.check(request.resources)
        async with sandbox.lock, cri.nri.gate:
            if not cri.is_ready(sandbox):
                raise FailedPrecondition(f"pod {sandbox.id} is not ready")
            await lifecycle.update_pod(cri, sandbox, request)
            config = cri_pb2.PodSandboxConfig()
            config.CopyFrom(sandbox.config)
            if request.HasField("overhead"):
                resources.merge(config.linux.overhead, request.overhead)
            if request.HasField("resources"):
                resources.merge(config.linux.resources, request.resources)
            record = await cri.run(cri.k8s.sandboxes.get, sandbox.id)
            extension = encode_sandbox(replace(sandbox, config=config))
            changed = replace(record, extensions={labels.SANDBOX_METADATA: extension})
            await cri.run(cri.k8s.sandboxes.update, changed, ["extensions"])
            sandbox.config = config
            await lifecycle.post_update_pod(cri, sandbox)
        return cri_pb2.UpdatePodSandboxResourcesResponse()
