"""Mirrors: asked in order, passed over when they fail, never asked what they may not say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from moorage_api.errors import FailedPrecondition, NotFound, Unavailable
from support.faultproxy import Fault, FaultProxy
from support.images import digest_of, push
from support.registry import Registry, free_port
from support.transfer import World, layer_digests, spec

IMAGE = spec("mirrored", size=1_500_000)
DOMAIN = "registry.example"
REFERENCE = f"{DOMAIN}/mirrors/image:v1"


@pytest.fixture
async def mirror(registry: Registry) -> AsyncIterator[FaultProxy]:
    push(registry.address, "mirrors/image", "v1", IMAGE)
    async with FaultProxy(f"http://{registry.address}") as running:
        yield running


def configure(world: World, origin: FaultProxy, *mirrors: str, extra: str = "") -> None:
    hosts = "".join(f'[host."http://{mirror}"]\n{extra}\n' for mirror in mirrors)
    world.hosts(DOMAIN, f'server = "http://{origin.address}"\n{hosts}')


async def test_the_mirror_serves_and_is_told_whose_image(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    configure(world, proxy, mirror.address)
    saved = await world.transfer.bind("default").pull(REFERENCE)
    assert saved.name == REFERENCE
    assert proxy.seen == []
    assert {seen.query for seen in mirror.seen} == {f"ns={DOMAIN}"}


async def test_a_mirror_without_the_image_is_passed_over(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    mirror.faults.append(Fault("", status=404))
    configure(world, proxy, mirror.address)
    await world.transfer.bind("default").pull(REFERENCE)
    assert len(proxy.requests("GET")) == 3


async def test_a_dead_mirror_is_asked_once(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    mirror.faults.append(Fault("", delay=3))
    configure(world, proxy, f"127.0.0.1:{free_port()}", mirror.address)
    start = time.monotonic()
    await world.transfer.bind("default").pull(REFERENCE)
    assert time.monotonic() - start < 3
    assert len(mirror.seen) == 1


async def test_a_mirror_may_be_for_blobs_only(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    configure(world, proxy, mirror.address, extra='capabilities = ["pull"]')
    await world.transfer.bind("default").pull(REFERENCE)
    assert [seen.method for seen in proxy.seen] == ["HEAD"]
    assert mirror.requests("HEAD") == []
    assert len(mirror.requests("GET")) == 3


async def test_by_digest_any_mirror_may_be_asked(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    configure(world, proxy, mirror.address, extra='capabilities = ["pull"]')
    await world.transfer.bind("default").pull(f"{DOMAIN}/mirrors/image@{digest_of(IMAGE.manifest())}")
    assert proxy.seen == []


async def test_a_mirror_that_breaks_off_is_continued_elsewhere(
    world: World, proxy: FaultProxy, mirror: FaultProxy
) -> None:
    layer = layer_digests(IMAGE)[0]
    mirror.faults.append(Fault(layer, cut=1_200_000))
    configure(world, proxy, mirror.address)
    await world.transfer.bind("default").pull(REFERENCE)
    (seen,) = proxy.requests(layer)
    start = int(seen.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_200_000
    assert layer in world.blobs()


async def test_a_mirror_that_lies_is_passed_over(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    mirror.faults.append(Fault("GET", flip=True))
    configure(world, proxy, mirror.address)
    await world.transfer.bind("default").pull(REFERENCE)
    assert layer_digests(IMAGE)[0] in world.blobs()
    assert world.leftovers() == []


async def test_the_error_names_every_host_and_why(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    dead = f"127.0.0.1:{free_port()}"
    mirror.faults.append(Fault("", status=403))
    proxy.faults.append(Fault("", status=404))
    configure(world, proxy, dead, mirror.address)
    with pytest.raises(NotFound) as caught:
        await world.transfer.bind("default").pull(REFERENCE)
    text = str(caught.value)
    for part in (
        REFERENCE,
        f"{dead}: no connection",
        f"{mirror.address}: the answer was 403",
        f"{proxy.address}: the answer was 404",
    ):
        assert part in text


async def test_the_default_folder_serves_unknown_registries(world: World, mirror: FaultProxy) -> None:
    world.hosts("_default", f'[host."http://{mirror.address}"]\n')
    await world.transfer.bind("default").pull("never.heard.of:1234/mirrors/image:v1")
    assert {seen.query for seen in mirror.seen} == {"ns=never.heard.of:1234"}


async def test_a_path_of_its_own(world: World, proxy: FaultProxy, mirror: FaultProxy) -> None:
    world.hosts(DOMAIN, f'[host."http://{mirror.address}/api/images"]\noverride_path = true\n')
    mirror.faults.append(Fault("", status=404))
    with pytest.raises(Unavailable):
        await world.transfer.bind("default").pull(REFERENCE)
    assert mirror.seen[0].path == "/api/images/mirrors/image/manifests/v1"


async def test_a_bad_file_stops_the_pull(world: World) -> None:
    world.hosts(DOMAIN, "server = ")
    with pytest.raises(FailedPrecondition, match=r"hosts\.toml"):
        await world.transfer.bind("default").pull(REFERENCE)
    assert world.metadata.namespaces.list() == []
