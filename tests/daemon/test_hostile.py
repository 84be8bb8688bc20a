"""Hostile images, through real pulls and real imports: a clear error, no escape, no more than the caps, nothing left."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zstandard

import moorage
from moorage.stdio import Source
from moorage.transfer import Transfers
from moorage_api.errors import DataLoss, InvalidArgument, MoorageError, ResourceExhausted, Unavailable
from moorage_api.linux.mount import temporary_mount
from moorage_api.oci import image as documents
from moorage_api.transfer import ImportOptions, NameRule, PullOptions
from support.archives import tar_files, tar_of
from support.cell import SNAPSHOTTERS, Cell
from support.daemon import Daemon
from support.hostile_documents import BAD_DOCUMENTS, FILE, Shelf, layered
from support.hostile_layers import BAD_LAYERS, CONFIGURATION, CONFINED, RATIO_FLOOR
from support.images import digest_of
from support.lyingregistry import Answer, LyingRegistry
from support.tars import block, pax

MB = 1 << 20
DISK = 256 * MB
EROFS = "\terofs\n" in Path("/proc/filesystems").read_text()
MEMORY_MAX = 64 * MB
"""What all processes of the daemon may need together for one image, above what they need at rest."""
DISK_MAX = RATIO_FLOOR + 8 * MB
"""For a layer: what it may become, its blob, and what the database writes."""


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    daemon = Daemon(CONFIGURATION)
    running = Cell(daemon, DISK)
    try:
        running.start()
        # Its first image makes the daemon larger by what it has to load once.
        asyncio.run(_warm_up(running))
        yield running
    finally:
        daemon.close()


@pytest.fixture(autouse=True)
async def clean(cell: Cell) -> AsyncIterator[None]:
    """What a test leaves is no other's trouble."""
    yield
    async with moorage.connect(cell.daemon.address, "hostile") as client:
        for lease in await client.leases.list():
            await client.leases.delete(lease.id)
    await remove_images(cell)


@pytest.fixture
async def registry() -> AsyncIterator[LyingRegistry]:
    async with LyingRegistry() as running:
        yield running


async def _warm_up(cell: Cell) -> None:
    async with LyingRegistry() as registry:
        shelf = Shelf()
        shelf.serve(registry, "good", shelf.manifest())
        for number, snapshotter in enumerate(SNAPSHOTTERS):
            await pull(cell, registry, snapshotter, tag="good")
            await load(cell, shelf.layout(shelf.manifest(annotations={"n": str(number)})), snapshotter)
    await remove_images(cell)


async def pull(cell: Cell, registry: LyingRegistry, snapshotter: str = "overlayfs", tag: str = "bad") -> None:
    async with moorage.connect(cell.daemon.address, "hostile") as client:
        await client.pull(f"{registry.address}/some/image:{tag}", PullOptions(snapshotter=snapshotter))


async def load(cell: Cell, data: bytes, snapshotter: str = "native") -> None:
    await load_from(cell, source_of(data), snapshotter)


async def load_from(cell: Cell, source: Source, snapshotter: str = "native") -> None:
    options = ImportOptions(
        rules=(NameRule("shelf.test/bad", is_prefix=True, add_digest=True),), unpack=True, snapshotter=snapshotter
    )
    async with moorage.connect(cell.daemon.address, "hostile") as client:
        await Transfers(client.session).import_(source, options)


def source_of(data: bytes) -> Source:
    pieces = [data[start : start + MB] for start in range(0, len(data), MB)]
    pieces.reverse()

    async def source() -> bytes:
        return pieces.pop() if pieces else b""

    return source


async def remove_images(cell: Cell) -> None:
    async with moorage.connect(cell.daemon.address, "hostile") as client:
        for stored in await client.images.list():
            await client.images.delete(stored.name)
        await client.collect()


async def check_refused(
    cell: Cell, attempt: object, error: type[MoorageError], why: str, disk_max: int = DISK_MAX
) -> None:
    """See that `attempt` ends with the error, within the caps, and that nothing is left."""
    pid = cell.daemon.process.pid if cell.daemon.process else 0
    before = cell.disk()
    with cell.watched() as used, pytest.raises(MoorageError) as caught:
        await attempt  # type: ignore[misc]
    words = str(caught.value)
    print(f"{words[:200]}: {used.memory >> 10} KiB of memory, {used.disk >> 10} KiB of disk")
    assert type(caught.value) is error, repr(caught.value)
    assert re.search(re.escape(why), words), words
    assert 10 < len(words) < 1500
    assert "Traceback" not in words
    assert used.memory < MEMORY_MAX, f"{used.memory >> 20} MiB of memory"
    assert used.disk < disk_max, f"{used.disk >> 20} MiB of disk"
    assert await cell.leftovers("hostile") == []
    assert cell.disk() - before < MB
    assert cell.daemon.process is not None
    assert (cell.daemon.process.poll(), cell.daemon.process.pid) == (None, pid), "the daemon died"


@pytest.mark.parametrize("snapshotter", ["overlayfs", "erofs"])
@pytest.mark.parametrize("name", BAD_LAYERS)
async def test_a_pulled_layer(cell: Cell, registry: LyingRegistry, name: str, snapshotter: str) -> None:
    if snapshotter == "erofs" and not EROFS:
        pytest.skip("this kernel has no EROFS")
    case, shelf = BAD_LAYERS[name], Shelf()
    shelf.serve(registry, "bad", layered(shelf, case.layers(), case.media_type))
    await check_refused(cell, pull(cell, registry, snapshotter), case.error, case.why)


@pytest.mark.parametrize("name", BAD_LAYERS)
async def test_an_imported_layer(cell: Cell, name: str) -> None:
    case, shelf = BAD_LAYERS[name], Shelf()
    data = shelf.layout(layered(shelf, case.layers(), case.media_type))
    await check_refused(cell, load(cell, data), case.error, case.why, DISK_MAX + len(data))


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
async def test_pulled_documents(cell: Cell, registry: LyingRegistry, name: str) -> None:
    case, shelf = BAD_DOCUMENTS[name], Shelf()
    shelf.serve(registry, "bad", case.make(shelf))
    await check_refused(cell, pull(cell, registry), case.error, case.why)
    assert registry.sent < 16 * MB, "what is too large was read"


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
async def test_imported_documents(cell: Cell, name: str) -> None:
    case, shelf = BAD_DOCUMENTS[name], Shelf()
    data = shelf.layout(case.make(shelf))
    if case.load is None:
        await load(cell, data)
        await remove_images(cell)
        assert await cell.leftovers("hostile") == []
    else:
        await check_refused(cell, load(cell, data), *case.load, disk_max=DISK_MAX + len(data))


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("name", CONFINED)
async def test_what_is_accepted_stays_inside(cell: Cell, registry: LyingRegistry, name: str, snapshotter: str) -> None:
    layers, made = CONFINED[name]
    shelf, archives = Shelf(), layers()
    shelf.serve(registry, "bad", layered(shelf, archives))
    await pull(cell, registry, snapshotter)
    async with moorage.connect(cell.daemon.address, "hostile") as client, client.leased() as leased:
        chain = documents.chain_ids([digest_of(data) for data in archives])
        mounts = await leased.snapshots(snapshotter).view("look", chain[-1])
        with temporary_mount(mounts) as root:
            assert made in {line.removeprefix(f"{root}/") for line in _paths(root)}
        await leased.snapshots(snapshotter).remove("look")
    await remove_images(cell)
    assert await cell.leftovers("hostile") == []


def _paths(root: str) -> list[str]:
    return [f"{folder}/{name}" for folder, folders, files in os.walk(root) for name in (*folders, *files)]


# What only a registry can do

FLIPPED = bytes([FILE[0] ^ 1]) + FILE[1:]
LIES: dict[str, tuple[Answer, type[MoorageError], str]] = {
    "other bytes": (Answer(FLIPPED), DataLoss, "what came is not"),
    "fewer bytes": (Answer(FILE[:100]), DataLoss, "it has 100 bytes"),
    "more bytes": (Answer(FILE + b"more"), DataLoss, "it has"),
    "an endless body": (Answer(bytes(MB), repeat=True), DataLoss, "it gives more than"),
    "an endless body of a huge length": (Answer(bytes(MB), length=1 << 60, repeat=True), DataLoss, "it has"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_layer_that_comes_otherwise(cell: Cell, registry: LyingRegistry, name: str) -> None:
    answer, error, why = LIES[name]
    shelf = Shelf()
    shelf.serve(registry, "bad", shelf.manifest())
    registry.answers[f"blobs/{digest_of(FILE)}"] = answer
    await check_refused(cell, pull(cell, registry), error, why)
    assert registry.sent < 16 * MB


async def test_a_layer_that_always_breaks_off_stays_to_be_resumed(cell: Cell, registry: LyingRegistry) -> None:
    shelf = Shelf()
    shelf.serve(registry, "bad", shelf.manifest())
    registry.answers[f"blobs/{digest_of(FILE)}"] = Answer(FILE[:2000], length=len(FILE), cut=True)
    with pytest.raises(Unavailable, match="the connection broke"):
        await pull(cell, registry)
    async with moorage.connect(cell.daemon.address, "hostile") as client:
        (kept,) = await client.content.ingests()
        assert kept.offset == 2000
        for lease in await client.leases.list():
            await client.leases.delete(lease.id)
    assert await cell.leftovers("hostile") == []


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_an_endless_manifest(cell: Cell, registry: LyingRegistry, by: str) -> None:
    shelf = Shelf()
    root = shelf.index(child := shelf.manifest())
    shelf.serve(registry, "bad", root)
    endless = Answer(b" " * MB, documents.OCI_MANIFEST, repeat=True, headers={"Docker-Content-Digest": child["digest"]})
    registry.answers["manifests/bad" if by == "tag" else f"manifests/{child['digest']}"] = endless
    await check_refused(cell, pull(cell, registry), ResourceExhausted, "the answer has more than")
    assert registry.sent < 16 * MB


# What only an archive can do


def _layout(**files: bytes) -> bytes:
    """A good archive with some of its files replaced, `_` for `.` and `-` in their names."""
    shelf = Shelf()
    good = tar_files(shelf.layout(shelf.manifest()))
    return tar_of(good | {{"index": "index.json", "layout": "oci-layout"}[name]: data for name, data in files.items()})


def _saved(**changes: object) -> bytes:
    """An archive of `docker save` with one image, of which something is changed."""
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(FILE)]}}).encode()
    image = {"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]} | changes
    return tar_of({"manifest.json": json.dumps([image]).encode(), "config.json": config, "layer.tar": FILE})


def _parents_in_a_ring() -> bytes:
    steps = {f"{id}/json": json.dumps({"id": id, "parent": parent}).encode() for id, parent in (("a", "b"), ("b", "a"))}
    return tar_of({"repositories": b'{"bad":{"1":"a"}}', **steps, "a/layer.tar": FILE, "b/layer.tar": FILE})


GOOD = _layout()
NOISY = tar_of({"noise": random.Random(1).randbytes(20_000)}) + GOOD
DEEP = b'{"a":' * 500_000
ARCHIVES: dict[str, tuple[Callable[[], bytes], type[MoorageError], str]] = {
    "nothing": (lambda: b"", InvalidArgument, "no archive of images"),
    "text": (lambda: b"#!/bin/sh\n" * 100, InvalidArgument, "not a tar archive"),
    "bzip2": (lambda: bz2.compress(GOOD), InvalidArgument, "compressed with bzip2"),
    "truncated": (lambda: GOOD[:4000], InvalidArgument, "stops short"),
    "truncated gzip": (lambda: gzip.compress(NOISY)[:-9], InvalidArgument, "stops short"),
    "truncated zstd": (lambda: zstandard.compress(NOISY)[:-9], InvalidArgument, "stops short"),
    "damaged gzip": (lambda: gzip.compress(NOISY)[:9000] + bytes(9000), InvalidArgument, "the archive"),
    "a file larger than the disk": (lambda: block(b"blob", size=b"77777777777"), ResourceExhausted, "are free"),
    "a file of negative size": (lambda: block(b"blob", size=b"\xff" * 12), InvalidArgument, "invalid size"),
    "a sparse file": (
        lambda: pax((b"GNU.sparse.size", b"99999"), (b"GNU.sparse.map", b"9,512")) + block(size=b"1000") + bytes(512),
        InvalidArgument,
        "sparse",
    ),
    "a bomb": (lambda: gzip.compress(block(b"blob", size=b"%011o" % (1 << 30))) * 2, ResourceExhausted, "are free"),
    "too many entries": (
        lambda: b"".join(block(b"%d" % number, b"5") for number in range(65_537)),
        ResourceExhausted,
        "more than 65536 entries",
    ),
    "a blob under another's digest": (
        lambda: tar_of({f"blobs/sha256/{'0' * 64}": b"other", **tar_files(GOOD)}),
        InvalidArgument,
        "digest",
    ),
    "an index of 9 MB": (lambda: _layout(index=b" " * (9 * MB)), ResourceExhausted, "too large"),
    "an index a mile deep": (lambda: _layout(index=DEEP), ResourceExhausted, "nested too deeply"),
    "a layout a mile deep": (lambda: _layout(layout=DEEP), InvalidArgument, "not well-formed"),
    "a layout of another version": (lambda: _layout(layout=b"{}"), InvalidArgument, "layout is of version"),
    "manifest.json a mile deep": (lambda: tar_of({"manifest.json": b"[" * MB}), InvalidArgument, "not well-formed"),
    "a layer from elsewhere": (
        lambda: _saved(Layers=["../../../../outside/secret"]),
        InvalidArgument,
        "does not have it",
    ),
    "a layer that is a link out": (
        lambda: tar_of(tar_files(_saved(Layers=["link"])), {"link": "../../outside/secret"}),
        InvalidArgument,
        "does not have it",
    ),
    "more layers than it has": (lambda: _saved(Layers=["layer.tar"] * 5000), InvalidArgument, "5000 layers"),
    "a layer that is another": (lambda: _saved(Layers=["config.json"]), InvalidArgument, "is not"),
    "parents in a ring": (_parents_in_a_ring, InvalidArgument, "has no end"),
}


@pytest.mark.parametrize("name", ARCHIVES)
async def test_an_archive(cell: Cell, name: str) -> None:
    make, error, why = ARCHIVES[name]
    data = make()
    await check_refused(cell, load(cell, data), error, why, DISK_MAX + len(data))
