"""Space on disk: what the daemon says is what `du` says, and it is back soon after the last reference went."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import moorage
from moorage.client import Client
from moorage.options import ContainerOptions
from moorage_api.transfer import PullOptions
from support.cell import SNAPSHOTTERS
from support.daemon import BIN, Daemon
from support.images import ImageSpec, LayerBuilder, busybox_layer, push
from support.registry import Registry
from support.transfer import spec

LATER = 10.0
"""Seconds after the last reference in which space has to be back."""
CONFIGURATION = """
[plugins."io.containerd.snapshotter.v1.native"]
remove_at_once = false
"""
"""One snapshotter removes files at once, the other at the end of a collection."""
LARGE = spec("bottom", "middle", "top", size=3_000_000)


def _files() -> ImageSpec:
    """Small files, hard links, holes and folders: what is counted differently by those who count badly."""
    layer = LayerBuilder()
    for number in range(300):
        layer.file(f"d{number % 7}/f{number}", bytes(number * 31))
    return ImageSpec([busybox_layer(), layer.build()])


def du(*folders: Path) -> int:
    # What vanishes under its hands makes it fail, and is not counted.
    lines = subprocess.run(["du", "-s", "-B1", *folders], check=False, capture_output=True, text=True).stdout
    return sum(int(line.split()[0]) for line in lines.splitlines())


def folders(daemon: Daemon) -> list[Path]:
    snapshotters = [daemon.root / f"io.containerd.snapshotter.v1.{name}" / "snapshots" for name in SNAPSHOTTERS]
    return [daemon.root / "io.containerd.content.v1.content", *snapshotters]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIGURATION) as running:
        yield running


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    async with moorage.connect(daemon.address, "default") as connected:
        yield connected


@pytest.fixture(scope="module")
def images(registry: Registry) -> list[str]:
    for name, image in (("large", LARGE), ("files", _files())):
        push(registry.address, f"space/{name}", "1", image)
    return [f"{registry.address}/space/{name}:1" for name in ("large", "files")]


async def test_what_is_reported_is_what_du_says(daemon: Daemon, client: Client, images: list[str]) -> None:
    for snapshotter in SNAPSHOTTERS:
        for image in images:
            await client.pull(image, PullOptions(snapshotter=snapshotter))
    await client.in_namespace("other").pull(images[0])
    for _ in range(2):
        await client.create(images[1], ContainerOptions(args=["true"]))
    # What the pulls had to make for a while may not be collected yet.
    await client.garbage.collect()
    holdings = await client.garbage.holdings(all_namespaces=True)
    content, *snapshots = folders(daemon)
    reported = {"": sum(one.size for one in holdings if not one.store)}
    reported |= {name: sum(one.size for one in holdings if one.store == name) for name in SNAPSHOTTERS}
    for store, folder in (("", content), *zip(SNAPSHOTTERS, snapshots, strict=True)):
        assert reported[store] == pytest.approx(du(folder), rel=0.01), store
    assert all(one.keepers for one in holdings)
    for one in holdings:
        if one.kind == "snapshot" and one.keepers[0].namespace == "default":
            # What clients and kubelets are told of it.
            assert (await client.snapshots(one.store).usage(one.name)).size == one.size
    check_df(daemon, du(*folders(daemon)))


def check_df(daemon: Daemon, expected: int) -> None:
    """The command line's rows add up to the same."""
    rows = daemon.run(BIN / "moorage", "system", "df", "-vA", "--format", "json").splitlines()
    owners = [json.loads(row) for row in rows]
    total = owners.pop()
    assert (total["Type"], total["Bytes"]) == ("total", pytest.approx(expected, rel=0.01))
    assert {owner["Type"] for owner in owners} == {"image", "container", "garbage"}
    assert {owner["Namespace"] for owner in owners} == {"default", "other", ""}
    table = daemon.run(BIN / "moorage", "system", "df", "-A").splitlines()
    assert re.match(r"Images +3 +1 ", table[1]), table
    assert re.match(r"Garbage +0 +0 +0B", table[-1]), table


async def test_space_is_back_after_the_last_reference(daemon: Daemon, client: Client, images: list[str]) -> None:
    for space in (client, client.in_namespace("other")):
        for record in await space.containers.list():
            await (await space.container(record.id)).remove(force=True)
        for image in await space.images.list():
            await space.images.delete(image.name)
    await is_empty(daemon)
    assert await client.garbage.holdings(all_namespaces=True) == []


async def test_a_container_outlives_its_image(daemon: Daemon, client: Client, images: list[str]) -> None:
    await client.pull(images[1])
    container = await client.create(images[1], ContainerOptions(args=["true"]))
    full = du(*folders(daemon))
    await client.images.delete(images[1])
    assert await _soon(lambda: du(*folders(daemon)) < full - 500_000)
    held = await client.garbage.holdings()
    assert {keeper.kind for one in held for keeper in one.keepers} == {"container"}
    await container.remove()
    await is_empty(daemon)


async def test_an_interrupted_pull_goes_with_its_lease(daemon: Daemon, client: Client, images: list[str]) -> None:
    async with client.leased() as leased:
        await leased.content.write(b"under way" * 100_000)
        assert await client.garbage.plan() == []
        (held,) = await client.garbage.holdings()
        assert (held.keepers[0].kind, held.size) == ("lease", 900_000 // 4096 * 4096 + 4096)
    await is_empty(daemon)


async def is_empty(daemon: Daemon) -> None:
    """See that nothing is left soon but folders of the stores themselves."""

    def empty() -> bool:
        content, *snapshots = folders(daemon)
        return not any(any(folder.iterdir()) for folder in snapshots) and du(content) < 50_000

    assert await _soon(empty), daemon.run("find", *map(str, folders(daemon)))


async def _soon(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LATER
    while time.monotonic() < deadline:
        if done():
            return True
        await asyncio.sleep(0.05)
    return done()
