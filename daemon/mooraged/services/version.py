"""`containerd.services.version.v1`."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from moorage_api.rpc import Call, Service
from moorage_api.wire import version_pb2 as pb


class Version:
    """The handlers."""

    def __init__(self, version: str) -> None:
        self._response = pb.VersionResponse(version=version)

    def Version(self, request: Empty, call: Call) -> pb.VersionResponse:
        return self._response


def service(version: str) -> Service:
    """What the daemon serves."""
    return Service(pb.DESCRIPTOR.services_by_name["Version"], Version(version))
