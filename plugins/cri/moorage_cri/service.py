"""The two CRI services, each from the objects that answer its calls."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from google.protobuf.descriptor import ServiceDescriptor

from moorage_api.rpc import Service
from moorage_api.wire import cri_pb2
from moorage_cri.checkpoint.container import CheckpointContainer
from moorage_cri.checkpoint.pod import CheckpointPod
from moorage_cri.checkpoint.restore import RestorePod
from moorage_cri.container.create import CreateContainer
from moorage_cri.container.exec_sync import ExecSync
from moorage_cri.container.log import ReopenContainerLog
from moorage_cri.container.start import StartContainer
from moorage_cri.container.status import ContainerStatus
from moorage_cri.container.stop import StopContainer
from moorage_cri.container.update import UpdateContainerResources
from moorage_cri.context import Cri
from moorage_cri.events import GetContainerEvents
from moorage_cri.image.fs_info import ImageFsInfo
from moorage_cri.image.listing import ImageStatus
from moorage_cri.image.pull import PullImage
from moorage_cri.image.removal import RemoveImage
from moorage_cri.listing import StreamedImages, StreamedPods
from moorage_cri.node.status import Status
from moorage_cri.sandbox.run import RunPodSandbox
from moorage_cri.sandbox.status import PodSandboxStatus
from moorage_cri.sandbox.stop import StopPodSandbox
from moorage_cri.sandbox.update import UpdatePodSandboxResources
from moorage_cri.stats.collector import Collector
from moorage_cri.stats.container import ContainerStats
from moorage_cri.stats.metrics import Metrics
from moorage_cri.stats.pod import PodSandboxStats
from moorage_cri.streaming.calls import Streaming
from moorage_cri.streaming.server import StreamServer

# Older kubelets speak v1alpha2, which is the same on the wire under another package name.
_VERSIONS = ("v1", "v1alpha2")


def services(cri: Cri, streams: StreamServer) -> list[Service]:
    """`RuntimeService` and `ImageService`, under each version's name and on each socket."""
    runtime = cri_pb2.DESCRIPTOR.services_by_name["RuntimeService"]
    image = cri_pb2.DESCRIPTOR.services_by_name["ImageService"]
    collector = Collector(cri)
    pods, containers, listed = PodSandboxStatus(cri), ContainerStatus(cri), ImageStatus(cri)
    run, stop, create = RunPodSandbox(cri), StopPodSandbox(cri), CreateContainer(cri)
    answers = (
        run,
        stop,
        pods,
        create,
        StartContainer(cri),
        StopContainer(cri),
        containers,
        StreamedPods(pods, containers),
        ExecSync(cri),
        ReopenContainerLog(cri),
        UpdateContainerResources(cri),
        UpdatePodSandboxResources(cri),
        CheckpointContainer(cri),
        CheckpointPod(cri),
        RestorePod(cri, run, create, stop),
        ContainerStats(cri, collector),
        PodSandboxStats(cri, collector),
        Metrics(cri, collector),
        GetContainerEvents(cri),
        Streaming(cri, streams),
    )
    images = join(image, PullImage(cri), listed, StreamedImages(listed), RemoveImage(cri), ImageFsInfo(cri))
    found = []
    for version in _VERSIONS:
        runtimes = join(runtime, *answers, Status(cri, version))
        found += _at(cri, Service(runtime, runtimes, f"runtime.{version}.RuntimeService"), cri.config.runtime_endpoint)
        found += _at(cri, Service(image, images, f"runtime.{version}.ImageService"), cri.config.image_endpoint)
    return found


def _at(cri: Cri, service: Service, endpoint: str) -> list[Service]:
    """A service on the daemon's socket and, where there is another, on a socket of its own."""
    address = endpoint.removeprefix("unix://")
    if address in ("", cri.core.daemon.address):
        return [service]
    return [service, replace(service, address=address)]


def join(descriptor: ServiceDescriptor, *answers: object) -> SimpleNamespace:
    """One object with every method of a service, from objects that have some each; each method from exactly one."""
    joined = SimpleNamespace()
    for method in descriptor.methods:
        found = [getattr(answer, method.name) for answer in answers if hasattr(answer, method.name)]
        if len(found) != 1:
            raise TypeError(f"{method.full_name} is answered {len(found)} times")
        setattr(joined, method.name, found[0])
    return joined
