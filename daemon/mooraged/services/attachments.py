"""`moorage.services.tasks.v1.Attachments`: further readers of what a process writes."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from moorage_api.core import Core
from moorage_api.rpc import Call, Service
from moorage_api.runtime import Stdio
from moorage_api.wire import moorage_tasks_pb2 as pb


class Attachments:
    """The handlers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Attach(self, request: pb.AttachRequest, call: Call) -> Empty:
        tasks = self._core.namespaced(call.namespace).tasks
        stdio = Stdio("", request.stdout, request.stderr)
        await tasks.attach(request.container_id, stdio, request.exec_id, patient=request.patient)
        return Empty()


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Attachments"], Attachments(core))
