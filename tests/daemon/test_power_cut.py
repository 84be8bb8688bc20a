"""A power cut: what was acknowledged is there afterwards, whole; at any other moment nothing is torn."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import moorage
from moorage_api.oci import image as documents
from moorage_api.transfer import PullOptions
from support.cell import SNAPSHOTTERS
from support.daemon import Daemon
from support.gate import SYNCS, GatedDaemon, Stop, ungated
from support.images import ImageSpec, digest_of, push
from support.powercut import Disk, available
from support.registry import Registry
from support.tars import archive, entry, folder, link, symlink
from support.treelist import Listing, committed_trees

pytestmark = pytest.mark.skipif(bool(available() or ungated()), reason=available() or ungated())
CUTS = int(os.environ.get("MOORAGE_CUTS", "0"))
"""Cuts at boundaries of each snapshotter's pull, besides the one after its answer; MOORAGE_CUTS=10 takes some minutes."""


def _image() -> ImageSpec:
    noise = random.Random(7)
    bottom = [folder("d"), *(entry(f"d/{n}", data=noise.randbytes(20_000), uid=n) for n in range(50))]
    top = [entry("d/.wh.3"), link("d/same", "d/new"), symlink("l", "d")]
    return ImageSpec([archive(*bottom), archive(entry("d/new", data=noise.randbytes(900_000)), *top)])


IMAGE = _image()
CHAIN = documents.chain_ids([digest_of(layer) for layer in IMAGE.layers])


@pytest.fixture(scope="module")
def reference(registry: Registry) -> str:
    push(registry.address, "cut/image", "1", IMAGE)
    return f"{registry.address}/cut/image:1"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[GatedDaemon, Disk]]:
    """A daemon on a disk of its own."""
    daemon, made = GatedDaemon(SYNCS), Disk(tmp_path / "disk")
    made.make()
    with ExitStack() as stack:
        stack.callback(daemon.close)
        stack.enter_context(made.mounted(daemon.root))
        daemon.start()
        stack.callback(daemon.kill)
        yield daemon, made


async def pull(daemon: Daemon, reference: str, snapshotter: str) -> dict[str, Listing]:
    """Pull, and return the trees of the image's snapshots."""
    async with moorage.connect(daemon.address) as client:
        await client.pull(reference, PullOptions(snapshotter=snapshotter))
    return await trees(daemon, snapshotter)


async def trees(daemon: Daemon, snapshotter: str) -> dict[str, Listing]:
    async with moorage.connect(daemon.address) as client:
        return await committed_trees(client, snapshotter)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_a_pull(disk: tuple[GatedDaemon, Disk], reference: str, snapshotter: str, tmp_path: Path) -> None:
    """The power goes at some boundaries of a pull, each time before the call that brings something to disk, and in the
    moment when the pull is acknowledged."""
    daemon, made = disk
    count, cuts = 0, list[Disk]()
    at = {3 + 37 * number % 31 for number in range(CUTS)}

    def decide(stop: Stop) -> int:
        nonlocal count
        count += 1
        if count in at:
            cuts.append(made.after_power_cut(tmp_path / f"cut-{count}", daemon))
        return 0

    daemon.decide = decide
    async with moorage.connect(daemon.address) as client:
        await client.pull(reference, PullOptions(snapshotter=snapshotter))
        acknowledged = await asyncio.to_thread(made.after_power_cut, tmp_path / "acknowledged", daemon)
    daemon.decide = lambda stop: 0
    expected = await trees(daemon, snapshotter)
    assert set(expected) == set(CHAIN)
    assert len(cuts) == len(at), "the pull has fewer boundaries"
    for cut in cuts:
        await check(cut, reference, snapshotter, expected, acknowledged=False)
    await check(acknowledged, reference, snapshotter, expected, acknowledged=True)


async def check(
    cut: Disk, reference: str, snapshotter: str, expected: dict[str, Listing], *, acknowledged: bool
) -> None:
    """A daemon that starts on what the cut left has whole blobs and whole snapshots, all of them if it had said so; and
    the pull can be made again."""
    daemon = Daemon()
    with ExitStack() as stack:
        stack.callback(daemon.close)
        stack.enter_context(cut.mounted(daemon.root))
        check_blobs(daemon.root)
        daemon.start()
        stack.callback(daemon.kill)
        found = await trees(daemon, snapshotter)
        assert found == {name: expected[name] for name in found}
        if acknowledged:
            assert found == expected
            async with moorage.connect(daemon.address) as client:
                assert [stored.name for stored in await client.images.list()] == [reference]
                await client.garbage.collect()
                held = await client.garbage.holdings(all_namespaces=True)
            assert len(held) == 2 + 2 * len(CHAIN)
            assert all(one.keepers for one in held)
        assert await pull(daemon, reference, snapshotter) == expected
        check_blobs(daemon.root)


def check_blobs(root: Path) -> None:
    for blob in (root / "io.containerd.content.v1.content/blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
