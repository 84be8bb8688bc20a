"""Lists as streams: StreamPodSandboxes, StreamContainers and StreamImages, and how lists are cut for them.

A list in one message may be longer than a client takes; cut into messages it has no end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from moorage_api.rpc import Call, Encoded
from moorage_api.wire import cri_pb2
from moorage_cri.container.status import ContainerStatus
from moorage_cri.image.listing import ImageStatus
from moorage_cri.sandbox.status import PodSandboxStatus

T = TypeVar("T")

_BATCH = 100


def batches(items: Sequence[T]) -> Iterator[list[T]]:
    """`items` in order, a hundred at a time."""
    for start in range(0, len(items), _BATCH):
        yield list(items[start : start + _BATCH])


class StreamedPods:
    """ListPodSandbox and ListContainers, as streams."""

    def __init__(self, pods: PodSandboxStatus, containers: ContainerStatus) -> None:
        self._pods = pods
        self._containers = containers

    async def StreamPodSandboxes(
        self, request: cri_pb2.StreamPodSandboxesRequest, call: Call
    ) -> AsyncIterator[Encoded]:
        # On the wire, the answers of both calls are the same.
        for batch in batches(self._pods.listed(request.filter)):
            yield Encoded(b"".join(batch))

    async def StreamContainers(self, request: cri_pb2.StreamContainersRequest, call: Call) -> AsyncIterator[Encoded]:
        for batch in batches(self._containers.listed(request.filter)):
            yield Encoded(b"".join(batch))


class StreamedImages:
    """ListImages, as a stream."""

    def __init__(self, images: ImageStatus) -> None:
        self._images = images

    async def StreamImages(
        self, request: cri_pb2.StreamImagesRequest, call: Call
    ) -> AsyncIterator[cri_pb2.StreamImagesResponse]:
        found = await self._images.ListImages(cri_pb2.ListImagesRequest(filter=request.filter), call)
        for batch in batches(found.images):
            yield cri_pb2.StreamImagesResponse(images=batch)
