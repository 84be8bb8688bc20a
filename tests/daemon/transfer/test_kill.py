"""`kill -9` in the middle of a pull: what came stays, and is not fetched again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mooraged.gc.collector import Collector
from support.daemon import BIN, Daemon
from support.faultproxy import FaultProxy
from support.images import push
from support.registry import Registry
from support.transfer import World, layer_digests, spec

IMAGE = spec("bottom", "top", size=6_000_000)
BLOBS = r"GET .*/blobs/"
LOST = 2 << 20
"""What a kill may cost for each layer: a batch that was not written, and what the sockets held."""


@asynccontextmanager
async def pulling(daemon: Daemon, reference: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`moorage pull` as a process of its own, ended at the end."""
    pull = await asyncio.create_subprocess_exec(
        BIN / "moorage",
        "pull",
        reference,
        env=daemon.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield pull
    finally:
        if pull.returncode is None:
            pull.kill()
        await pull.communicate()


async def test_a_pull_goes_on_after_the_daemon_was_killed(
    daemon: Daemon, registry: Registry, proxy: FaultProxy
) -> None:
    push(registry.address, "kill/image", "v1", IMAGE)
    sizes = [len(layer) for layer in IMAGE.blobs()[1]]
    reference = f"{proxy.address}/kill/image:v1"
    proxy.rate = 4_000_000
    async with pulling(daemon, reference) as pull:
        while proxy.sent(BLOBS) < sum(sizes) * 0.9:
            assert pull.returncode is None, (await pull.communicate())[1]
            await asyncio.sleep(0.01)
        await asyncio.to_thread(daemon.kill)
    sent = proxy.sent(BLOBS)
    proxy.rate = 0
    await asyncio.to_thread(daemon.start)
    await asyncio.to_thread(daemon.run, BIN / "moorage", "pull", reference)

    again = proxy.sent(BLOBS) - sum(sizes)
    print(f"killed at {sent} of {sum(sizes)} bytes: {again} bytes were fetched twice")
    assert again <= LOST * len(sizes)
    for digest, size in zip(layer_digests(IMAGE), sizes, strict=True):
        ranges = [seen.headers.get("Range", "") for seen in proxy.requests(f"GET .*{digest}")]
        started = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked in ranges]
        assert started == sorted(started)
        assert started[-1] <= size
    for what in ("leases", "snapshots"):
        listed = await asyncio.to_thread(daemon.run, "ctr", "-n", "default", what, "ls")
        assert "extract-" not in listed
        assert "transfer-" not in listed
    assert reference in await asyncio.to_thread(daemon.run, "ctr", "-n", "default", "images", "ls")


async def test_an_interrupted_pull_survives_garbage_collection(
    world: World, registry: Registry, proxy: FaultProxy
) -> None:
    push(registry.address, "kill/gc", "v1", IMAGE)
    proxy.rate = 8_000_000
    pull = asyncio.create_task(world.transfer.bind("default").pull(f"{proxy.address}/kill/gc:v1"))
    while proxy.sent(BLOBS) < 7_000_000:
        await asyncio.sleep(0.01)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    await asyncio.to_thread(Collector(world.metadata).collect)
    content = world.metadata.bind("default").content
    kept = {status.ref: status.offset for status in content.statuses()}
    assert sum(kept.values()) + sum(info.size for info in content.walk()) > 4_000_000
    proxy.rate, before = 0, proxy.sent(BLOBS)
    await world.transfer.bind("default").pull(f"{proxy.address}/kill/gc:v1")
    total = sum(len(layer) for layer in IMAGE.blobs()[1])
    assert proxy.sent(BLOBS) - before <= total - sum(kept.values())
    await asyncio.to_thread(Collector(world.metadata).collect)
    assert set(layer_digests(IMAGE)) <= set(world.blobs())
    assert world.leftovers() == []
