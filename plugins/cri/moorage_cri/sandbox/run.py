"""RunPodSandbox."""

from __future__ import annotations

import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from moorage_api import sandboxes
from moorage_api.cni.call import Attachment
from moorage_api.errors import FailedPrecondition, NotFound
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri import events, labels, names
from moorage_cri.cni import pod
from moorage_cri.concurrency import finish, together
from moorage_cri.config import RuntimeHandler
from moorage_cri.context import Cri
from moorage_cri.deadlines import deadline
from moorage_cri.metadata import encode_sandbox
from moorage_cri.model import Sandbox
from moorage_cri.node import features
from moorage_cri.nri import lifecycle
from moorage_cri.sandbox import files, spec, teardown
from moorage_cri.undo import Undo


class RunPodSandbox:
    """Makes pods. The network, the shim with its namespaces, the files and the record are made side by side."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def RunPodSandbox(self, request: cri_pb2.RunPodSandboxRequest, call: Call) -> cri_pb2.RunPodSandboxResponse:
        cri = self._cri
        spec.check(request.config)
        handler = cri.config.handler(request.runtime_handler)
        sandbox = _sandbox(request, handler, request.config.linux.cgroup_parent or cri.config.cgroup_parent)
        if sandbox.user_namespace is not None:
            problem = features.user_namespace_problem(handler)
            if problem:
                raise FailedPrecondition(f"this pod cannot have a user namespace: {problem}")
        cri.sandbox_names.reserve(sandbox.name, sandbox.id)
        try:
            async with Undo(f"pod {sandbox.id}") as undo, deadline(call, cri.config.timeout, "making the pod"):
                await self._make(sandbox, handler, undo)
                async with cri.nri.gate:
                    undo.push("NRI plugins", lambda: lifecycle.forget_pod(cri, sandbox))
                    await lifecycle.run_pod(cri, sandbox)
                    await cri.run(files.mark_made, cri.sandbox_folder(sandbox.id))
                    cri.sandboxes.add(sandbox.id, sandbox)
        except BaseException:
            cri.sandbox_names.release(sandbox.name, sandbox.id)
            raise
        cri.sandbox_names.made(sandbox.name)
        events.tell_pod(cri, sandbox, events.CREATED)
        events.tell_pod(cri, sandbox, events.STARTED)
        return cri_pb2.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    async def _make(self, sandbox: Sandbox, handler: RuntimeHandler, undo: Undo) -> None:
        cri = self._cri
        attachment = pod.attachment(sandbox.id, sandbox.config)
        specification = spec.sandbox_spec(sandbox, handler, cri.config)
        folder = cri.sandbox_folder(sandbox.id)
        undo.push("files", lambda: cri.run(files.remove, folder))
        undo.push("record", lambda: cri.run(forget, cri, sandbox.id))
        # The folder comes first and is marked last: by it an interrupted pod is known after a crash. A network and its
        # namespace are known by themselves.
        make_folder = cri.run(folder.mkdir, mode=0o750, parents=True)
        if not sandbox.host_network and sandbox.user_namespace is None:
            await self._make_with_network(sandbox, specification, attachment, make_folder, undo)
            return
        await make_folder
        await together(self._start(sandbox, specification, undo), cri.run(_keep, cri, sandbox))
        if not sandbox.host_network:
            # The network namespace belongs to the user namespace, which the shim has made.
            sandbox.netns = cri.netns_path(sandbox)
            undo.push("network", lambda: teardown.end_network(cri, sandbox.id))
            sandbox.network = await cri.network.attach(replace(attachment, netns=sandbox.netns))

    async def _make_with_network(
        self,
        sandbox: Sandbox,
        specification: sandboxes.SandboxSpec,
        attachment: Attachment,
        make_folder: Coroutine[Any, Any, None],
        undo: Undo,
    ) -> None:
        """CNI's plugins take longest by far: what they wait for comes first and side by side, all else goes on beside
        them."""
        cri = self._cri
        sandbox.netns = cri.netns_path(sandbox)
        undo.push("network namespace", lambda: teardown.end_namespace(cri, sandbox.id))
        undo.push("network", lambda: teardown.end_network(cri, sandbox.id))
        _, _, entry = await together(
            make_folder,
            cri.namespaces.make(sandbox.id, spec.network_sysctls(sandbox, cri.config)),
            cri.network.prepare(replace(attachment, netns=sandbox.netns)),
        )

        async def add() -> None:
            sandbox.network = await cri.network.add(entry)

        await together(
            add(),
            self._start(sandbox, replace(specification, netns=sandbox.netns), undo),
            cri.run(_keep, cri, sandbox),
        )

    async def _start(self, sandbox: Sandbox, specification: sandboxes.SandboxSpec, undo: Undo) -> None:
        undo.push("shim", lambda: teardown.end_shim(self._cri, sandbox.id))
        # Not to be cut short: only when it has ended is it known what there is to take back.
        status = await finish(self._cri.k8s.sandbox_controller.start(specification))
        sandbox.path = status.path


def forget(cri: Cri, id: str) -> None:
    """Remove a pod's record, and the lease under which its containers' snapshots were made."""
    with cri.k8s.batch():
        with suppress(NotFound):
            cri.k8s.sandboxes.delete(id)
        with suppress(NotFound):
            cri.k8s.leases.delete(id)


def _sandbox(request: cri_pb2.RunPodSandboxRequest, handler: RuntimeHandler, cgroup_parent: str) -> Sandbox:
    metadata = request.config.metadata
    return Sandbox(
        id=secrets.token_hex(32),
        name=names.pod_name(metadata.name, metadata.namespace, metadata.uid, metadata.attempt),
        config=request.config,
        handler=request.runtime_handler,
        # The name of the parent says who makes the groups below it.
        runtime=handler.runtime(systemd_cgroup=cgroup_parent.endswith(spec.SLICE)),
        created_at=time.time_ns(),
    )


def _keep(cri: Cri, sandbox: Sandbox) -> None:
    """The files, the lease, the record: what comes later refers to what came before."""
    files.write(cri.sandbox_folder(sandbox.id), sandbox.config, sandbox.user_namespace)
    record = sandboxes.Sandbox(
        id=sandbox.id,
        runtime=sandbox.runtime,
        labels=labels.record_labels(labels.KIND_SANDBOX, sandbox.config.labels),
        extensions={labels.SANDBOX_METADATA: encode_sandbox(sandbox)},
    )
    with cri.k8s.batch():
        cri.k8s.leases.create(sandbox.id, {labels.KIND: labels.KIND_SANDBOX})
        cri.k8s.sandboxes.create(record)
