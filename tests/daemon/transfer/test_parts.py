"""Large layers in parts, and layers that are elsewhere: what is asked for, and what a break costs."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path
from typing import Any

import pytest

from moorage_api.differ import Differ
from moorage_api.errors import DataLoss, Unavailable
from mooraged.transfer import download, parts
from support.faultproxy import Fault, FaultProxy
from support.images import push
from support.registry import Registry
from support.transfer import World, layer_digests, spec

PART = 1 << 18
SIZE = 3 << 20
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PART", PART)
    monkeypatch.setattr(download, "LARGE", 4 * PART)


class Large:
    """An image with one layer of several parts, behind the proxy."""

    def __init__(self, world: World, registry: Registry, proxy: FaultProxy, size: int = SIZE) -> None:
        self.world, self.proxy = world, proxy
        image = spec("large", size=size)
        push(registry.address, "parts/image", "v1", image)
        (self.layer,) = layer_digests(image)
        self.size = len(image.blobs()[1][0])

    async def pull(self, *faults: Fault) -> None:
        self.proxy.faults[:] = faults
        await self.world.transfer.bind("default").pull(f"{self.proxy.address}/parts/image:v1")

    def asked(self) -> list[str]:
        return [seen.headers.get("Range", "") for seen in self.proxy.requests(f"GET .*/{self.layer}")]

    def ends_well(self) -> None:
        assert self.layer in self.world.blobs()
        assert self.world.leftovers() == []

    def written(self) -> list[int]:
        """How many bytes the ingests have in their order."""
        statuses = self.world.metadata.bind("default").content.statuses()
        return [status.offset for status in statuses if status.expected == self.layer]

    def windows(self) -> int:
        """Bytes that a break may cost: the parts that are under way."""
        return self.world.transfer.config.max_concurrent_parts * PART


@pytest.fixture
def large(world: World, registry: Registry, proxy: FaultProxy) -> Large:
    return Large(world, registry, proxy)


async def test_each_part_is_fetched_once(large: Large) -> None:
    await large.pull()
    starts = range(0, large.size, PART)
    expected = [f"bytes={start}-{min(start + PART, large.size) - 1}" for start in starts]
    assert sorted(large.asked(), key=lambda asked: int(asked[6:].partition("-")[0])) == expected
    assert large.proxy.sent(large.layer) == large.size
    large.ends_well()


async def test_parts_come_side_by_side(large: Large) -> None:
    """The second and the third are asked for while the first of those that follow has not come."""
    second = Fault(f"GET .*/{large.layer}", delay=0.0, times=1)
    late = Fault(f"GET .*/{large.layer}", delay=0.7, times=1)
    await large.pull(second, late)
    asked = large.asked()
    assert [int(one[6:].partition("-")[0]) // PART for one in asked[:4]] == [0, 1, 2, 3]
    large.ends_well()


async def test_a_host_that_serves_no_ranges(large: Large) -> None:
    await large.pull(Fault(large.layer, ignore_range=True))
    assert large.asked() == [f"bytes=0-{PART - 1}"]
    large.ends_well()


@pytest.mark.parametrize("status", [400, 416, 501])
async def test_a_host_that_refuses_such_ranges(large: Large, status: int) -> None:
    await large.pull(Fault(f"GET .*/{large.layer}", times=1, status=status))
    assert large.asked() == [f"bytes=0-{PART - 1}", ""]
    large.ends_well()


async def test_a_host_that_stops_serving_ranges(large: Large) -> None:
    good = Fault(f"GET .*/{large.layer}", times=2)
    await large.pull(good, Fault(f"GET .*/{large.layer}", times=1, ignore_range=True))
    large.ends_well()


async def test_a_part_that_breaks_costs_no_more_than_those_under_way(large: Large) -> None:
    breaks = [
        Fault(f"GET .*/{large.layer}", times=3),
        Fault(f"GET .*/{large.layer}", times=1, cut=PART // 2),
        Fault(f"GET .*/{large.layer}", times=3),
        Fault(f"GET .*/{large.layer}", times=1, status=503),
    ]
    await large.pull(*breaks)
    assert large.proxy.sent(large.layer) <= large.size + 2 * large.windows()
    large.ends_well()


async def test_a_part_with_wrong_bytes(large: Large) -> None:
    with pytest.raises(DataLoss):
        await large.pull(Fault(f"GET .*/{large.layer}", flip=True))
    assert large.layer not in large.world.blobs()
    assert large.world.leftovers() == []


@pytest.mark.parametrize("spoilt", [f"bytes 0-{PART - 1}/9", f"bytes {PART}-{2 * PART - 1}/*", "nonsense"])
async def test_a_part_that_was_not_asked_for(large: Large, spoilt: str) -> None:
    with pytest.raises(DataLoss, match="it gives others"):
        await large.pull(Fault(f"GET .*/{large.layer}", headers={"Content-Range": spoilt}))


async def test_a_part_that_never_ends(large: Large) -> None:
    with pytest.raises(DataLoss, match="more than the"):
        await large.pull(Fault(f"GET .*/{large.layer}", times=2), Fault(f"GET .*/{large.layer}", endless=True))


@pytest.mark.parametrize("holes", [True, False])
async def test_parts_that_came_before_their_turn_outlive_the_daemon(
    tmp_path: Path, differ: Differ, registry: Registry, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, holes: bool
) -> None:
    """What a store has begun with finds them; one whose file system tells no holes has them in memory only."""
    part, size = 2 << 20, 12 << 20
    monkeypatch.setattr(download, "PART", part)
    monkeypatch.setattr("moorage_content.store.keeps_holes", lambda _: holes)
    killed = Large(World(tmp_path, differ, progress_timeout=60), registry, proxy, size)
    stays_away = Fault(f"GET .*/{killed.layer}", times=1, cut=0, stall=60)
    pull = asyncio.create_task(killed.pull(Fault(f"GET .*/{killed.layer}", times=1), stays_away))

    def have_come() -> bool:
        """The first part, and the two after the one that stays away."""
        extent = max(path.stat().st_size for path in tmp_path.glob("content/ingest/*/data"))
        return (
            proxy.sent(killed.layer) >= 3 * part and killed.written() == [part] and extent == (4 if holes else 1) * part
        )

    while not killed.written() or not have_come():
        assert not pull.done()
        await asyncio.sleep(0.01)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    assert killed.written() == [part]
    await killed.world.close()

    before = proxy.sent(killed.layer)
    resumed = Large(World(tmp_path, differ), registry, proxy, size)
    await resumed.pull()
    again = proxy.sent(resumed.layer) - before
    if holes:
        assert again <= resumed.size - 2 * part  # one part at most of the three that had come
    else:
        assert again >= resumed.size - part
    resumed.ends_well()
    await resumed.world.close()


async def test_parts_that_fail_at_once_fail_once() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def fail(start: int, end: int) -> None:
        await asyncio.sleep(0)
        raise Unavailable(f"the part from {start} to {end}")

    with pytest.raises(Unavailable, match="the part from"):
        await parts.side_by_side(fail, [(0, 1), (1, 2), (2, 3)], 3, lambda _: True)
    gc.collect()
    assert not reported
