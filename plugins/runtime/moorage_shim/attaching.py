"""Moorage's own service of a shim (`moorage.shim.v1.Streams`): further readers of what a process writes."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from moorage_api.errors import FailedPrecondition
from moorage_api.wire.moorage_shim_pb2 import AttachRequest
from moorage_shim.tasks import Tasks

SERVICE = "moorage.shim.v1.Streams"


class Attaching:
    """A method a RPC."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def Attach(self, request: AttachRequest, _: float | None) -> Message:
        process = self._tasks.get(request.id).process(request.exec_id)
        if process.streams is None or process.exited.done:
            raise FailedPrecondition(f"process {request.exec_id or request.id} is not running")
        process.streams.follow({"stdout": request.stdout, "stderr": request.stderr}, patient=request.patient)
        return Empty()
