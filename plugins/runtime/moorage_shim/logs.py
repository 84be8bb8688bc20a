"""Moorage's own service of a shim (`moorage.shim.v1.Logs`): logs in the CRI's format."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from moorage_api.wire.moorage_shim_pb2 import ReopenRequest
from moorage_shim.tasks import Tasks

SERVICE = "moorage.shim.v1.Logs"


class Logs:
    """A method a RPC."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def Reopen(self, request: ReopenRequest, _: float | None) -> Message:
        streams = self._tasks.get(request.id).init.streams
        if streams is not None:
            streams.reopen_logs()
        return Empty()
