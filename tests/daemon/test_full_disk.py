"""A disk that is full, or fails, in the middle of a pull: a clear error, nothing left, and the retry works."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import moorage
from moorage.client import Client
from moorage.transfer import Transfers
from moorage_api.errors import MoorageError, ResourceExhausted
from moorage_api.transfer import ImportOptions, NameRule, PullOptions
from support.archives import oci_layout, tar_of
from support.cell import SNAPSHOTTERS, Cell
from support.daemon import Daemon
from support.gate import GatedDaemon, Stop, ungated
from support.images import ImageSpec, push
from support.registry import Registry
from support.tars import archive, entry

MB = 1 << 20
ROOMY = 96 * MB
NAMESPACE = "full"


def _image() -> ImageSpec:
    """Two layers: 2 MB that do not compress, and 12 MB that do, in files of 64 KiB."""
    noise = random.Random(5)
    small = archive(*[entry(f"a/{n}", data=noise.randbytes(65536)) for n in range(32)])
    large = archive(*[entry(f"b/{n}", data=b"%d" % n * 32768) for n in range(190)])
    return ImageSpec([small, large])


IMAGE = _image()


@pytest.fixture(scope="module")
def reference(registry: Registry) -> str:
    push(registry.address, "full/image", "1", IMAGE)
    return f"{registry.address}/full/image:1"


async def pull(client: Client, reference: str, snapshotter: str) -> None:
    await client.pull(reference, PullOptions(snapshotter=snapshotter))


async def load(client: Client, _: str, snapshotter: str) -> None:
    data = tar_of(oci_layout(IMAGE, name="1"))
    pieces = [data[start : start + MB] for start in range(0, len(data), MB)][::-1]

    async def source() -> bytes:
        return pieces.pop() if pieces else b""

    rules = (NameRule("full.test/image", is_prefix=True),)
    await Transfers(client.session).import_(source, ImportOptions(rules=rules, unpack=True, snapshotter=snapshotter))


WAYS: dict[str, Callable[[Client, str, str], Awaitable[None]]] = {"pull": pull, "import": load}


async def forget(client: Client) -> None:
    """Remove all images, and what an attempt may keep to be resumed."""
    for stored in await client.images.list():
        await client.images.delete(stored.name)
    for lease in await client.leases.list():
        await client.leases.delete(lease.id)
    await client.collect()


# A full disk


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    running = Cell(Daemon(), ROOMY)
    try:
        running.start()
        yield running
    finally:
        running.daemon.close()


@pytest.fixture
async def client(cell: Cell) -> AsyncIterator[Client]:
    async with moorage.connect(cell.daemon.address, NAMESPACE) as connected:
        yield connected
        await forget(connected)


async def check_nothing_left(cell: Cell) -> None:
    assert await cell.leftovers(NAMESPACE) == []


@pytest.mark.parametrize(("way", "snapshotter"), [*zip(WAYS, SNAPSHOTTERS, strict=True)])
@pytest.mark.parametrize("room", [1 * MB, 6 * MB, 12 * MB], ids=lambda room: f"{room >> 20}MB")
async def test_a_full_disk(cell: Cell, client: Client, reference: str, way: str, snapshotter: str, room: int) -> None:
    """Room for not even a layer; for layers and a part of their files; for a little less than all."""
    cell.resize(cell.disk() + room)
    try:
        with pytest.raises(ResourceExhausted) as caught:
            await WAYS[way](client, reference, snapshotter)
        words = str(caught.value)
        assert any(known in words for known in ("No space left on device", "are free", "disk is full")), words
        assert "Traceback" not in words
        await check_nothing_left(cell)
    finally:
        cell.resize(ROOMY)
    await WAYS[way](client, reference, snapshotter)
    assert len(await client.images.list()) == 1
    assert {info.kind.value for info in await client.snapshots(snapshotter).list()} == {"Committed"}


async def test_what_makes_room_is_done_on_a_disk_without_any(cell: Cell, client: Client, reference: str) -> None:
    """There is a reserve for it, which is taken again when there is plenty."""
    reserve = cell.daemon.root / "io.containerd.metadata.v1.sqlite" / "reserve"
    for snapshotter in SNAPSHOTTERS:
        await pull(client, reference, snapshotter)
    assert reserve.exists()
    cell.resize(cell.disk() + MB)
    filler = cell.daemon.root / "filler"
    try:
        _fill(filler)
        (stored,) = await client.images.list()
        await client.images.delete(stored.name)
        await client.garbage.collect()
        await check_nothing_left(cell)
        filler.unlink()
    finally:
        cell.resize(ROOMY)
    await pull(client, reference, "overlayfs")
    await client.garbage.collect()
    assert reserve.exists()


def _fill(path: Path) -> None:
    """Write into the file until nothing goes in any more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


# A disk that fails


@pytest.fixture(scope="module")
def failing() -> Iterator[GatedDaemon]:
    with GatedDaemon(("fsync", "fdatasync", "syncfs", "pwrite64", "write")) as running:
        yield running


FAULTS: dict[str, tuple[str, str, int, type[MoorageError]]] = {
    "the bytes of a blob": ("write", "/ingest/", errno.EIO, MoorageError),
    "a blob without room": ("write", "/ingest/", errno.ENOSPC, ResourceExhausted),
    "a blob beyond a quota": ("write", "/ingest/", errno.EDQUOT, ResourceExhausted),
    "a blob to disk": ("fsync", "/ingest/", errno.EIO, MoorageError),
    "the folder of blobs to disk": ("fsync", "/blobs/sha256", errno.EIO, MoorageError),
    "a file of a layer": ("pwrite64", "/fs/", errno.EIO, MoorageError),
    "a file of a layer without room": ("pwrite64", "/fs/", errno.ENOSPC, ResourceExhausted),
    "a snapshot to disk": ("syncfs", "/snapshots", errno.EIO, MoorageError),
    "a snapshot to a full disk": ("syncfs", "/snapshots", errno.ENOSPC, ResourceExhausted),
    "the snapshots' records": ("fdatasync", "overlayfs/metadata.db", errno.EIO, MoorageError),
    "the database": ("fdatasync", "sqlite/meta.db", errno.EIO, MoorageError),
    "the database without room": ("pwrite64", "sqlite/meta.db-wal", errno.ENOSPC, ResourceExhausted),
}


@pytest.mark.skipif(bool(ungated()), reason=ungated())
@pytest.mark.parametrize("what", FAULTS)
async def test_a_disk_that_fails(failing: GatedDaemon, reference: str, what: str) -> None:
    """Each call of a kind fails from its second on, until the pull has failed; then the disk is well again."""
    call, part, number, kind = FAULTS[what]
    seen = 0

    def decide(stop: Stop) -> int:
        nonlocal seen
        if stop.name != call or part not in stop.path:
            return 0
        seen += 1
        return number if seen > 1 else 0

    async with moorage.connect(failing.address, NAMESPACE) as client:
        failing.decide = decide
        try:
            with pytest.raises(MoorageError) as caught:
                await asyncio.wait_for(pull(client, reference, "overlayfs"), 60)
        finally:
            failing.decide = lambda stop: 0
        assert seen > 1
        assert isinstance(caught.value, kind), repr(caught.value)
        assert "Traceback" not in str(caught.value)
        await pull(client, reference, "overlayfs")
        await check_whole(client)
        await forget(client)
        assert await client.garbage.holdings(all_namespaces=True) == []


async def check_whole(client: Client) -> None:
    """The image is there with all its blobs and snapshots, and nothing of the failed attempt is."""
    _, layers = IMAGE.blobs()
    held = await client.garbage.holdings()
    assert sorted(one.kind for one in held) == ["content"] * (2 + len(layers)) + ["snapshot"] * len(layers)
    assert len(await client.images.list()) == 1
    assert [*await client.leases.list(), *await client.content.ingests()] == []
