"""Container events, to whoever reads them: GetContainerEvents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from moorage_api.errors import ResourceExhausted
from moorage_api.wire import cri_pb2

# Events that may wait for one reader. A reader that is slower lists everything anew, as after a broken connection.
_QUEUE = 10_000

Make = Callable[[], cri_pb2.ContainerEventResponse]


class _Reader:
    """What one reader has not taken yet. `lagging` once something had to be left out."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[cri_pb2.ContainerEventResponse] = asyncio.Queue()
        self.lagging = False

    def put(self, event: cri_pb2.ContainerEventResponse) -> None:
        if self.queue.qsize() >= _QUEUE:
            self.lagging = True
        if not self.lagging:
            self.queue.put_nowait(event)

    async def take(self) -> cri_pb2.ContainerEventResponse:
        """The next event. `ResourceExhausted` once those before a gap are taken."""
        if self.lagging and self.queue.empty():
            raise ResourceExhausted(f"more than {_QUEUE} events were waiting for this reader: list the pods anew")
        return await self.queue.get()


class Feed:
    """Publishing never waits, and costs nothing while nobody reads."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def publish(self, make: Make) -> None:
        """Tell every reader what `make` returns; called after the state can be read that it tells of."""
        if self._readers:
            event = make()
            for reader in self._readers:
                reader.put(event)

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[cri_pb2.ContainerEventResponse]]:
        """The events from now on."""
        reader = _Reader()
        self._readers.add(reader)

        async def events() -> AsyncIterator[cri_pb2.ContainerEventResponse]:
            while True:
                yield await reader.take()

        try:
            yield events()
        finally:
            self._readers.discard(reader)


def response(
    id: str,
    type: cri_pb2.ContainerEventType.ValueType,
    pod: cri_pb2.PodSandboxStatus | None,
    containers: list[cri_pb2.ContainerStatus],
) -> cri_pb2.ContainerEventResponse:
    """One event, with the pod's state and its containers' at this moment; no pod where it is gone."""
    return cri_pb2.ContainerEventResponse(
        container_id=id,
        container_event_type=type,
        created_at=time.time_ns(),
        pod_sandbox_status=pod,
        containers_statuses=containers,
    )
