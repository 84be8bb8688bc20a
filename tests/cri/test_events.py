"""The feed of container events."""

from __future__ import annotations

import asyncio

import pytest

from moorage_api.errors import ResourceExhausted
from moorage_api.wire import cri_pb2
from moorage_cri import feed as feeds
from moorage_cri.feed import Feed


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
