"""`kill -9` at every moment of a pull: what is there afterwards is whole, and the rest is resumed or goes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import moorage
from moorage.client import Client
from moorage_api.errors import MoorageError
from moorage_api.oci import image as documents
from moorage_api.transfer import PullOptions
from support.cell import SNAPSHOTTERS
from support.faultproxy import FaultProxy
from support.gate import SYNCS, GatedDaemon, Stop, ungated
from support.images import ImageSpec, digest_of, push
from support.registry import Registry
from support.tars import archive, entry, folder, link, symlink
from support.treelist import Listing, committed_trees, differences

pytestmark = pytest.mark.skipif(bool(ungated()), reason=ungated())
KILLS = int(os.environ.get("MOORAGE_KILLS", "10"))
"""MOORAGE_KILLS=200 takes about ten minutes, and has all boundaries of a pull with both snapshotters."""
RATE = 12_000_000
LOST = (1 << 20) + (1 << 19)
"""What a kill may cost for each layer: one batch that was not written, and what the sockets held."""
SEED = 20


def _image() -> ImageSpec:
    noise = random.Random(SEED)
    bottom = [folder("d", mode=0o1777), folder("gone")]
    bottom += [entry(f"gone/{n}", data=noise.randbytes(2000)) for n in range(40)]
    middle = [entry(f"d/{n}", data=noise.randbytes(75_000), mtime=1_600_000_000 + n, uid=n) for n in range(40)]
    top = [entry(".wh.gone"), link("d/same", "d/new"), symlink("l", "d")]
    new = entry("d/new", data=noise.randbytes(3_000_000), mode=0o4755)
    layers = [archive(*bottom, entry("big", data=noise.randbytes(3_000_000))), archive(*middle), archive(new, *top)]
    return ImageSpec(layers)


IMAGE = _image()
CHAIN = documents.chain_ids([digest_of(layer) for layer in IMAGE.layers])
BLOBS = {digest_of(data): data for data in (IMAGE.manifest(), IMAGE.blobs()[0], *IMAGE.blobs()[1])}
SIZE = sum(len(layer) for layer in IMAGE.blobs()[1])


@dataclass
class Killer:
    """Kills the daemon at its `at`th call that brings something to disk (0: never), and counts those calls."""

    daemon: GatedDaemon
    at: int = 0
    count: int = 0
    seen: list[str] = field(default_factory=list)

    def __call__(self, stop: Stop) -> int:
        self.count += 1
        self.seen.append(f"{stop.name} {stop.path}")
        if self.count == self.at:
            self.daemon.kill_now()
        return 0

    def arm(self, at: int) -> None:
        self.at, self.count = at, 0
        self.seen.clear()


@dataclass
class Victim:
    """The daemon that is killed again and again, and the trees that it must show by chain ID."""

    daemon: GatedDaemon
    killer: Killer
    trees: dict[str, Listing] = field(default_factory=dict)
    boundaries: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def daemon() -> Iterator[GatedDaemon]:
    with GatedDaemon(SYNCS) as running:
        yield running


@pytest.fixture(scope="module")
def victim(daemon: GatedDaemon, registry: Registry) -> Victim:
    """Pulls the image in peace once with each snapshotter: that is how its trees have to be, and how many boundaries it has."""
    push(registry.address, "kills/image", "1", IMAGE)
    made = Victim(daemon, Killer(daemon))
    daemon.decide = made.killer

    async def pull_in_peace() -> None:
        async with moorage.connect(daemon.address) as client:
            for snapshotter in SNAPSHOTTERS:
                made.killer.arm(0)
                await client.pull(f"{registry.address}/kills/image:1", PullOptions(snapshotter=snapshotter))
                made.boundaries[snapshotter] = made.killer.count
                trees = await committed_trees(client, snapshotter)
                assert set(trees) == set(CHAIN)
                assert made.trees in ({}, trees), "the snapshotters agree"
                made.trees = trees
                await forget(client)

    asyncio.run(pull_in_peace())
    return made


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(f"http://{registry.address}") as running:
        running.rate = RATE
        yield running


async def forget(client: Client) -> None:
    """Remove the image and all of it."""
    for stored in await client.images.list():
        await client.images.delete(stored.name)
    for lease in await client.leases.list():
        await client.leases.delete(lease.id)
    await client.garbage.collect()
    assert await client.garbage.holdings(all_namespaces=True) == []


def check_blobs(root: Path) -> dict[str, int]:
    """Each blob is what its name says; each ingest is the beginning of what it is to become. Returns how much of each is
    there."""
    content = root / "io.containerd.content.v1.content"
    there = {}
    for blob in (content / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        there[f"sha256:{blob.name}"] = blob.stat().st_size
    for ingest in (content / "ingest").iterdir():
        digest = "sha256:" + (ingest / "ref").read_text().rpartition(":")[2]
        assert BLOBS[digest].startswith((ingest / "data").read_bytes())
        there[digest] = (ingest / "data").stat().st_size
    return there


async def check_snapshots(client: Client, victim: Victim, snapshotter: str) -> None:
    for chain, tree in (await committed_trees(client, snapshotter)).items():
        assert differences(tree, victim.trees[chain]) == []


def _plan() -> list[tuple[str, float]]:
    """Kills: by snapshotter, and at which part of a pull's boundaries; negative ones at that part of its time."""
    if KILLS <= 10:
        parts = [0.02, 0.2, 0.4, 0.6, 0.8, 0.99, -0.3, -0.6, -0.9, -1.1]
        return [(SNAPSHOTTERS[number % 2], part) for number, part in enumerate(parts[:KILLS])]
    random.seed(SEED)
    share = KILLS // 5
    planned = [(name, (number + 0.5) / (2 * share)) for name in SNAPSHOTTERS for number in range(2 * share)]
    return [*planned, *((SNAPSHOTTERS[n % 2], -random.uniform(0, 1.2)) for n in range(KILLS - len(planned)))]


@pytest.mark.parametrize(("snapshotter", "part"), _plan())
async def test_a_kill(victim: Victim, proxy: FaultProxy, snapshotter: str, part: float) -> None:
    daemon, killer = victim.daemon, victim.killer
    reference = f"{proxy.address}/kills/image:1"
    options = PullOptions(snapshotter=snapshotter)
    killer.arm(1 + int(part * victim.boundaries[snapshotter]) if part > 0 else 0)
    async with moorage.connect(daemon.address) as client:
        pull = asyncio.create_task(client.pull(reference, options))
        if part < 0:
            await asyncio.wait([pull], timeout=-part * SIZE / RATE)
            daemon.kill_now()
        acknowledged = not isinstance(await _outcome(pull), MoorageError)
    await asyncio.to_thread(daemon.kill)
    print("killed at", killer.seen[-1:], "acknowledged" if acknowledged else "")
    killer.arm(0)
    await asyncio.to_thread(daemon.start)

    there = check_blobs(daemon.root)
    async with moorage.connect(daemon.address) as client:
        await check_snapshots(client, victim, snapshotter)
        assert not acknowledged or reference in {stored.name for stored in await client.images.list()}
        proxy.rate = 0
        seen = len(proxy.seen)
        await client.pull(reference, options)
        await check_end(client, victim, snapshotter, reference)
        await forget(client)
    for request in proxy.seen[seen:]:
        kind, digest = request.path.split("/")[-2:]
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        assert kind != "blobs" or start >= there.get(digest, 0), "what was written is not fetched again"
    again = proxy.sent(r"GET .*/blobs/") - SIZE - len(IMAGE.blobs()[0])
    print(f"{again} bytes were fetched twice")
    assert again <= LOST * len(IMAGE.layers)


async def _outcome(pull: asyncio.Task[object]) -> object:
    """What came of it; a daemon that survives its planned end (its boundaries were fewer this time) has answered."""
    (outcome,) = await asyncio.gather(pull, return_exceptions=True)
    return outcome


async def check_end(client: Client, victim: Victim, snapshotter: str, reference: str) -> None:
    """The image is there, with all of it, and nothing else is."""
    check_blobs(victim.daemon.root)
    trees = await committed_trees(client, snapshotter)
    assert trees == victim.trees
    await client.garbage.collect()
    assert [stored.name for stored in await client.images.list()] == [reference]
    assert [*await client.leases.list(), *await client.content.ingests()] == []
    held = await client.garbage.holdings(all_namespaces=True)
    assert sorted(one.name for one in held) == sorted([*BLOBS, *CHAIN])
    _check_folders(victim.daemon, snapshotter, CHAIN)


def _check_folders(daemon: GatedDaemon, snapshotter: str, chain: Sequence[str]) -> None:
    content = daemon.root / "io.containerd.content.v1.content"
    assert list((content / "ingest").iterdir()) == []
    snapshots: Path = daemon.root / f"io.containerd.snapshotter.v1.{snapshotter}" / "snapshots"
    assert len(list(snapshots.iterdir())) == len(chain)
    assert list((daemon.state / "io.containerd.differ.v1.walking").iterdir()) == []
