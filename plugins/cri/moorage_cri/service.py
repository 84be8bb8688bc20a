"""The two CRI services, each from the objects that answer its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from moorage_api.errors import Unimplemented
from moorage_api.rpc import Call, Service
from moorage_api.wire import cri_pb2
from moorage_cri.container.create import CreateContainer
from moorage_cri.container.exec_sync import ExecSync
from moorage_cri.container.log import ReopenContainerLog
from moorage_cri.container.start import StartContainer
from moorage_cri.container.status import ContainerStatus
from moorage_cri.container.stop import StopContainer
from moorage_cri.context import Cri
from moorage_cri.image.fs_info import ImageFsInfo
from moorage_cri.image.listing import ImageStatus
from moorage_cri.image.pull import PullImage
from moorage_cri.image.removal import RemoveImage
from moorage_cri.node.status import Status
from moorage_cri.sandbox.run import RunPodSandbox
from moorage_cri.sandbox.status import PodSandboxStatus
from moorage_cri.sandbox.stop import StopPodSandbox
from moorage_cri.streaming.calls import Streaming
from moorage_cri.streaming.server import StreamServer

# Older kubelets speak v1alpha2, which is the same on the wire under another package name.
_VERSIONS = ("v1", "v1alpha2")


def services(cri: Cri, streams: StreamServer) -> list[Service]:
    """`RuntimeService` and `ImageService`, under each version's name."""
    runtime = cri_pb2.DESCRIPTOR.services_by_name["RuntimeService"]
    image = cri_pb2.DESCRIPTOR.services_by_name["ImageService"]
    answers = (
        RunPodSandbox(cri),
        StopPodSandbox(cri),
        PodSandboxStatus(cri),
        CreateContainer(cri),
        StartContainer(cri),
        StopContainer(cri),
        ContainerStatus(cri),
        ExecSync(cri),
        ReopenContainerLog(cri),
        Streaming(cri, streams),
    )
    images = join(image, PullImage(cri), ImageStatus(cri), RemoveImage(cri), ImageFsInfo(cri))
    found = []
    for version in _VERSIONS:
        found.append(
            Service(runtime, join(runtime, *answers, Status(cri, version)), f"runtime.{version}.RuntimeService")
        )
        found.append(Service(image, images, f"runtime.{version}.ImageService"))
    return found


def join(descriptor: ServiceDescriptor, *answers: object) -> SimpleNamespace:
    """One object with every method of a service, from objects that have some each; what none has is unimplemented."""
    joined = SimpleNamespace()
    for method in descriptor.methods:
        found = [getattr(answer, method.name) for answer in answers if hasattr(answer, method.name)]
        if len(found) > 1:
            raise TypeError(f"{method.full_name} is answered twice")
        setattr(joined, method.name, found[0] if found else _unimplemented(method))
    return joined


def _unimplemented(method: MethodDescriptor) -> Any:
    message = f"{method.name} is not supported by this version"

    async def unary(request: Any, call: Call) -> Any:
        raise Unimplemented(message)

    async def stream(request: Any, call: Call) -> AsyncIterator[Any]:
        yield await unary(request, call)

    return stream if method.server_streaming else unary
