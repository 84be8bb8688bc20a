"""PodSandboxStatus and ListPodSandbox: answered from memory."""

from __future__ import annotations

import json
import time
from typing import Any

from google.protobuf import json_format

from moorage_api.errors import NotFound
from moorage_api.rpc import Call, Encoded
from moorage_api.wire import cri_pb2
from moorage_cri.context import Cri
from moorage_cri.model import Sandbox
from moorage_cri.selection import matches


class PodSandboxStatus:
    """Shows pods."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def PodSandboxStatus(
        self, request: cri_pb2.PodSandboxStatusRequest, call: Call
    ) -> cri_pb2.PodSandboxStatusResponse:
        sandbox = self._cri.sandboxes.get(request.pod_sandbox_id)
        return cri_pb2.PodSandboxStatusResponse(
            status=message(self._cri, sandbox),
            info=self._info(sandbox) if request.verbose else None,
            timestamp=time.time_ns(),
        )

    async def ListPodSandbox(self, request: cri_pb2.ListPodSandboxRequest, call: Call) -> Encoded:
        return Encoded(b"".join(self.listed(request.filter)))

    def listed(self, wanted: cri_pb2.PodSandboxFilter) -> list[bytes]:
        """An answer for each of the pods that a filter means; joined, they are the answer for all."""
        found = self._candidates(wanted.id)
        if wanted.label_selector:
            found = [sandbox for sandbox in found if matches(sandbox.config.labels, wanted.label_selector)]
        states = [(sandbox, _state(self._cri, sandbox)) for sandbox in found]
        if wanted.HasField("state"):
            states = [(sandbox, state) for sandbox, state in states if state == wanted.state.state]
        return [_listed(sandbox, state) for sandbox, state in states]

    def _candidates(self, id: str) -> list[Sandbox]:
        if not id:
            return list(self._cri.sandboxes)
        try:
            return [self._cri.sandboxes.get(id)]
        except NotFound:
            return []

    def _info(self, sandbox: Sandbox) -> dict[str, str]:
        """For people: the pod's process and namespaces, its configuration, what CNI said."""
        status = self._cri.sandbox_status(sandbox.id)
        document: dict[str, Any] = {
            "pid": status.pid if status is not None else 0,
            "processStatus": status.state if status is not None else "deleted",
            "path": sandbox.path,
            "runtimeHandler": sandbox.handler,
            "runtimeType": sandbox.runtime.name,
            "config": json_format.MessageToDict(sandbox.config, preserving_proto_field_name=True),
            "cniResult": sandbox.network.result if sandbox.network is not None else None,
        }
        return {"info": json.dumps(document)}


def _listed(sandbox: Sandbox, state: cri_pb2.PodSandboxState.ValueType) -> bytes:
    if sandbox.listed[0] != state:
        answer = cri_pb2.ListPodSandboxResponse(items=[_item(sandbox, state)])
        sandbox.listed = (state, answer.SerializeToString())
    return sandbox.listed[1]


def _item(sandbox: Sandbox, state: cri_pb2.PodSandboxState.ValueType) -> cri_pb2.PodSandbox:
    config = sandbox.config
    return cri_pb2.PodSandbox(
        id=sandbox.id,
        metadata=config.metadata,
        state=state,
        created_at=sandbox.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.handler,
    )


def message(cri: Cri, sandbox: Sandbox) -> cri_pb2.PodSandboxStatus:
    """What is known of a pod now. One that is not ready has given its addresses back; one in the host's network has
    none of its own."""
    state = _state(cri, sandbox)
    config = sandbox.config
    ready = state == cri_pb2.SANDBOX_READY
    addresses = sandbox.network.addresses if sandbox.network is not None and ready else ()
    return cri_pb2.PodSandboxStatus(
        id=sandbox.id,
        metadata=config.metadata,
        state=state,
        created_at=sandbox.created_at,
        network=cri_pb2.PodSandboxNetworkStatus(
            ip=addresses[0] if addresses else "",
            additional_ips=[cri_pb2.PodIP(ip=address) for address in addresses[1:]],
        ),
        linux=cri_pb2.LinuxPodSandboxStatus(namespaces=cri_pb2.Namespace(options=sandbox.namespace_options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.handler,
    )


def _state(cri: Cri, sandbox: Sandbox) -> cri_pb2.PodSandboxState.ValueType:
    return cri_pb2.SANDBOX_READY if cri.is_ready(sandbox) else cri_pb2.SANDBOX_NOTREADY
