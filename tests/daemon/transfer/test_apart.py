"""Transfers on a loop of their own: what callers hand over is used on theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from moorage_api.errors import NotFound, Unavailable
from moorage_api.transfer import Credentials, ImportOptions, NameRule, Progress, PullOptions, PushOptions
from mooraged.transfer.apart import TransfersApart
from support.faultproxy import FaultProxy
from support.images import push
from support.registry import Registry
from support.transfer import HTPASSWD, World, layer_digests, spec

IMAGE = spec("apart", size=3_000_000)


@pytest.fixture
async def apart(world: World) -> AsyncIterator[TransfersApart]:
    running = TransfersApart(world.transfer)
    yield running
    await running.close()


class Here:
    """Notes in which threads it was called."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.steps: list[str] = []
        self.asked: set[str] = set()
        self.written = bytearray()

    def note(self) -> None:
        self.threads.add(threading.current_thread().name)

    def progress(self, step: Progress) -> None:
        self.note()
        self.steps.append(step.event)

    async def credentials(self, host: str) -> Credentials:
        self.note()
        self.asked.add(host)
        return Credentials("anna", "harbour")

    async def write(self, data: bytes) -> None:
        self.note()
        await asyncio.sleep(0)
        self.written += data

    async def read(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.written), 100_000):
            self.note()
            yield bytes(self.written[start : start + 100_000])


async def test_all_of_it(
    world: World, apart: TransfersApart, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "htpasswd").write_text(HTPASSWD)
    extra = {"auth": {"htpasswd": {"realm": "dock", "path": str(folder / "htpasswd")}}}
    digest = push(registry.address, "apart/image", "v1", IMAGE)
    name = f"{registry.address}/apart/image:v1"
    here, bound = Here(), apart.bind("default")

    image = await bound.pull(name, PullOptions(), here.progress)
    assert image.target.digest == digest
    assert here.steps[0] == "resolving"
    assert here.steps[-1] == "saved"  # told before the pull has ended
    assert (await bound.explain(name)).digest == digest
    assert await bound.referrers(name) == []
    chain = await bound.unpack(image)
    assert world.metadata.bind("default").snapshotter().stat(chain).kind.value == "Committed"
    await bound.tag(name, ["apart.test/other:1"])
    converted = await bound.convert(name, "apart.test/zstd:1")
    assert converted.name == "apart.test/zstd:1"
    with Registry(folder, extra=extra) as locked:
        pushed = await bound.push(
            name, f"{locked.address}/a/b:1", PushOptions(credentials=here.credentials), here.progress
        )
        assert pushed.digest == digest
        assert here.asked == {locked.address}

    await bound.export_archive([name], here.write)
    other = apart.bind("other")
    rules = [NameRule("apart.test/", is_prefix=True, allow_overwrite=True)]
    [stored] = await other.import_archive(here.read(), ImportOptions(rules=rules, unpack=True))
    assert stored.target.digest == digest
    assert here.threads == {threading.current_thread().name}


async def test_errors_are_the_engines(apart: TransfersApart, registry: Registry) -> None:
    with pytest.raises(NotFound, match="none:1"):
        await apart.bind("default").pull(f"{registry.address}/none:1")


async def test_a_source_that_fails_fails_the_import(world: World, apart: TransfersApart) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"\0" * 512
        raise Unavailable("the client has gone")

    with pytest.raises(Unavailable, match="the client has gone"):
        await apart.bind("default").import_archive(broken())
    assert world.leftovers() == []


async def test_a_cancelled_pull_has_ended_when_its_caller_has(
    world: World, apart: TransfersApart, registry: Registry, proxy: FaultProxy
) -> None:
    push(registry.address, "apart/slow", "v1", IMAGE)
    proxy.rate = 4_000_000
    pull = asyncio.create_task(apart.bind("default").pull(f"{proxy.address}/apart/slow:v1"))
    while not proxy.sent(r"GET .*/blobs/") > 1_300_000:
        await asyncio.sleep(0.01)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    (ingest,) = world.metadata.bind("default").content.statuses()
    assert ingest.ref == f"layer-{layer_digests(IMAGE)[0]}"
    # Nobody writes to it any more: another may.
    world.metadata.bind("default").content.writer(ingest.ref, 0, layer_digests(IMAGE)[0]).close()


async def test_what_is_under_way_fails_when_it_is_closed(world: World, registry: Registry, proxy: FaultProxy) -> None:
    apart = TransfersApart(world.transfer)
    push(registry.address, "apart/closed", "v1", IMAGE)
    proxy.rate = 1_000_000
    pull = asyncio.create_task(apart.bind("default").pull(f"{proxy.address}/apart/closed:v1"))
    while not proxy.sent(r"GET .*/blobs/") > 100_000:
        await asyncio.sleep(0.01)
    await apart.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(pull, 10)
    with pytest.raises(Unavailable):
        await apart.bind("default").pull(f"{proxy.address}/apart/closed:v1")
