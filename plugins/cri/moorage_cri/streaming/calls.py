"""Exec, Attach and PortForward: each answers with the URL at which the streams are."""

from __future__ import annotations

from moorage_api.errors import FailedPrecondition, InvalidArgument
from moorage_api.rpc import Call
from moorage_api.wire import cri_pb2
from moorage_cri.container.execution import check_command, running_container
from moorage_cri.context import Cri
from moorage_cri.streaming.attach import Attachment
from moorage_cri.streaming.exec import Execution
from moorage_cri.streaming.jobs import CommandJob, PortForwardJob
from moorage_cri.streaming.portforward import Forwarding
from moorage_cri.streaming.remotecommand import Wanted
from moorage_cri.streaming.server import StreamServer

_PORT_MAX = 0xFFFF


class Streaming:
    """Checks what is asked, and grants it. Whether it is still possible is seen again when the client comes."""

    def __init__(self, cri: Cri, server: StreamServer) -> None:
        self._cri = cri
        self._server = server

    async def Exec(self, request: cri_pb2.ExecRequest, call: Call) -> cri_pb2.ExecResponse:
        check_command(request.cmd)
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        wanted.check()
        container = running_container(self._cri, request.container_id)
        execution = Execution(self._cri, container.id, list(request.cmd), wanted)
        return cri_pb2.ExecResponse(url=self._server.grant(CommandJob("exec", wanted, execution.run)))

    async def Attach(self, request: cri_pb2.AttachRequest, call: Call) -> cri_pb2.AttachResponse:
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        wanted.check()
        container = running_container(self._cri, request.container_id)
        attachment = Attachment(self._cri, container.id, wanted)
        return cri_pb2.AttachResponse(url=self._server.grant(CommandJob("attach", wanted, attachment.run)))

    async def PortForward(self, request: cri_pb2.PortForwardRequest, call: Call) -> cri_pb2.PortForwardResponse:
        for port in request.port:
            if not 0 < port <= _PORT_MAX:
                raise InvalidArgument(f"{port} is not a port")
        sandbox = self._cri.sandboxes.get(request.pod_sandbox_id)
        if not self._cri.is_ready(sandbox):
            raise FailedPrecondition(f"pod {sandbox.id} is not ready")
        job = PortForwardJob(list(request.port), Forwarding(self._cri, sandbox.id).forward)
        return cri_pb2.PortForwardResponse(url=self._server.grant(job))
