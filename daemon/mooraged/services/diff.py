"""`containerd.services.diff.v1`."""

from __future__ import annotations

from moorage_api.core import Core, Namespaced
from moorage_api.remote.answers import DiffAnswers
from moorage_api.rpc import Call, Service
from moorage_api.wire import diff_pb2 as pb
from mooraged.services.handlers import Handlers


class Diff(Handlers):
    """The handlers: those of `DiffAnswers` on the content of the caller's namespace."""

    async def Apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        return await self._run(call, lambda space: self._answers(space).Apply(request))

    async def Diff(self, request: pb.DiffRequest, call: Call) -> pb.DiffResponse:
        return await self._run(call, lambda space: self._answers(space).Diff(request))

    def _answers(self, space: Namespaced) -> DiffAnswers:
        return DiffAnswers(self._core.differ, lambda: space.content)


def service(core: Core) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Diff"], Diff(core))
