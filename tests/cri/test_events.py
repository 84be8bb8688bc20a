"""GetContainerEvents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest

from moorage_api.errors import MoorageError, ResourceExhausted
from moorage_api.wire import cri_pb2
from moorage_cri import feed as feeds
from moorage_cri.feed import Feed
from support.cri import CriClient, container_config, pod_config, until

CREATED, STARTED = cri_pb2.CONTAINER_CREATED_EVENT, cri_pb2.CONTAINER_STARTED_EVENT
STOPPED, DELETED = cri_pb2.CONTAINER_STOPPED_EVENT, cri_pb2.CONTAINER_DELETED_EVENT


@contextmanager
def _reading(cri: CriClient) -> Iterator[Queue[Any]]:
    """The events from now on, once it is sure that they come."""
    call = cri.GetContainerEvents(deadline=100)
    queue: Queue[Any] = Queue()

    def read() -> None:
        try:
            for event in call:
                queue.put(event)
        except MoorageError as error:
            queue.put(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        while queue.empty():
            probe = cri.run_pod(pod_config())
            cri.remove_pod(probe)
        while _pair(queue.get(timeout=30)) != (probe, DELETED):
            pass
        yield queue
    finally:
        call.cancel()
        thread.join()


def _pair(event: Any) -> tuple[str, int]:
    return event.container_id, event.container_event_type


def test_every_step_is_told_in_order_and_can_be_read(cri: CriClient, busybox: str) -> None:
    with _reading(cri) as events:
        config = pod_config()
        pod = cri.run_pod(config)
        container = cri.start(pod, config, container_config(busybox, "sh", "-c", "exit 3"))
        told = []
        while not told or told[-1][:2] != (container, STOPPED):
            event = events.get(timeout=30)
            told.append(_pair(event))
            if told[-1] == (container, STOPPED):
                # What is told can be read.
                assert cri.status(container).state == cri_pb2.CONTAINER_EXITED
                (status,) = event.containers_statuses
                assert (status.id, status.exit_code) == (container, 3)
                assert event.pod_sandbox_status.id == pod
        cri.remove_pod(pod)
        while told[-1] != (pod, DELETED):
            event = events.get(timeout=30)
            told.append(_pair(event))
    assert [type for id, type in told if id == container] == [CREATED, STARTED, STOPPED, DELETED]
    assert [type for id, type in told if id == pod] == [CREATED, STARTED, STOPPED, DELETED]


def test_nothing_is_lost_while_much_happens(cri: CriClient, busybox: str) -> None:
    """Beside a reader that takes nothing, which holds nobody up."""
    idle = cri.GetContainerEvents(deadline=100)
    with _reading(cri) as events:

        def live(_: int) -> tuple[str, str]:
            config = pod_config(network=cri_pb2.NODE)
            pod = cri.run_pod(config)
            container = cri.start(pod, config, container_config(busybox, "true"))
            until(lambda: cri.status(container).state == cri_pb2.CONTAINER_EXITED)
            cri.remove_pod(pod)
            return pod, container

        with ThreadPoolExecutor(4) as pool:
            wanted = {id for pair in pool.map(live, range(12)) for id in pair}
        told: dict[str, list[int]] = {id: [] for id in wanted}
        while any(kinds[-1:] != [DELETED] for kinds in told.values()):
            event = events.get(timeout=30)
            told.get(event.container_id, []).append(event.container_event_type)
    idle.cancel()
    assert all(kinds == [CREATED, STARTED, STOPPED, DELETED] for kinds in told.values()), told


async def test_a_slow_reader_is_cut_off_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_QUEUE", 3)
    feed = Feed()
    made = 0

    def make() -> cri_pb2.ContainerEventResponse:
        nonlocal made
        made += 1
        return cri_pb2.ContainerEventResponse(container_id=str(made))

    feed.publish(make)
    assert made == 0
    with feed.subscribe() as slow, feed.subscribe() as quick:
        for number in range(1, 6):
            feed.publish(make)
            assert (await anext(quick)).container_id == str(number)
        assert [(await anext(slow)).container_id for _ in range(3)] == ["1", "2", "3"]
        with pytest.raises(ResourceExhausted):
            await asyncio.wait_for(anext(slow), 5)
    feed.publish(make)
    assert made == 5
