"""Pulls from a real registry into real stores: what is there afterwards, and what is fetched."""

from __future__ import annotations

import asyncio
import json

import pytest

from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from moorage_api.oci import image as documents
from moorage_api.transfer import Progress, PullOptions
from moorage_api.types import Platform
from support.faultproxy import FaultProxy
from support.images import ImageSpec, digest_of, push
from support.registry import Registry, free_port
from support.transfer import World, entry, layer_digests, put, put_index, spec

FETCHED = r"GET .*/(blobs|manifests)/"


async def test_an_image_is_fetched_labelled_unpacked_and_saved(world: World, registry: Registry) -> None:
    spec_ = spec("one", "two", size=3000)
    digest = push(registry.address, "pull/plain", "v1", spec_)
    reference = f"{registry.address}/pull/plain:v1"
    saved = await world.transfer.bind("default").pull(reference)
    assert (saved.name, saved.target.digest) == (reference, digest)
    assert saved.target.media_type == documents.OCI_MANIFEST

    config, layers = digest_of(spec_.blobs()[0]), layer_digests(spec_)
    diff_ids = [digest_of(layer) for layer in spec_.layers]
    chain = documents.chain_ids(diff_ids)
    source = {"containerd.io/distribution.source.127.0.0.1": "pull/plain"}
    gc = "containerd.io/gc.ref.content."
    assert world.blobs() == {
        digest: {**source, f"{gc}config": config, f"{gc}l.0": layers[0], f"{gc}l.1": layers[1]},
        config: {**source, "containerd.io/gc.ref.snapshot.native": chain[1]},
        layers[0]: {**source, "containerd.io/uncompressed": diff_ids[0]},
        layers[1]: {**source, "containerd.io/uncompressed": diff_ids[1]},
    }
    snapshots = {info.name: info for info in world.metadata.bind("default").snapshotter().walk()}
    assert set(snapshots) == set(chain)
    assert snapshots[chain[1]].parent == chain[0]
    (mount,) = world.metadata.bind("default").snapshotter().view("look", chain[1])
    with open(f"{mount.source}/one", encoding="ascii") as file:
        assert file.read() == "one"
    assert world.leftovers() == []


async def test_a_second_pull_fetches_nothing(world: World, registry: Registry, proxy: FaultProxy) -> None:
    push(registry.address, "pull/twice", "v1", spec("twice"))
    reference = f"{proxy.address}/pull/twice:v1"
    first = await world.transfer.bind("default").pull(reference)
    proxy.seen.clear()
    again = await world.transfer.bind("default").pull(reference, PullOptions(labels={"a": "b"}, names=("other",)))
    assert again.target == first.target
    assert proxy.requests(FETCHED) == []
    assert [seen.method for seen in proxy.seen] == ["HEAD"]
    images = {image.name: dict(image.labels) for image in world.metadata.bind("default").images.list()}
    assert images == {reference: {"a": "b"}, "other": {"a": "b"}}


async def test_namespaces_do_not_see_each_other(world: World, registry: Registry, proxy: FaultProxy) -> None:
    push(registry.address, "pull/apart", "v1", spec("apart"))
    reference = f"{proxy.address}/pull/apart:v1"
    await world.transfer.bind("k8s.io").pull(reference)
    assert world.blobs("default") == {}
    once = proxy.sent(FETCHED)
    await world.transfer.bind("default").pull(reference)
    assert proxy.sent(FETCHED) == 2 * once
    assert set(world.blobs("default")) == set(world.blobs("k8s.io"))


async def test_a_blob_from_two_repositories_names_both(world: World, registry: Registry) -> None:
    for name in ("pull/b", "pull/a"):
        push(registry.address, name, "v1", spec("shared"))
        await world.transfer.bind("default").pull(f"{registry.address}/{name}:v1")
    for labels in world.blobs().values():
        assert labels["containerd.io/distribution.source.127.0.0.1"] == "pull/a,pull/b"


async def test_without_unpacking_there_are_no_snapshots_until_asked(world: World, registry: Registry) -> None:
    spec_ = spec("later", "still")
    push(registry.address, "pull/later", "v1", spec_)
    transfer = world.transfer.bind("default")
    saved = await transfer.pull(f"{registry.address}/pull/later:v1", PullOptions(unpack=False))
    snapshotter = world.metadata.bind("default").snapshotter()
    assert list(snapshotter.walk()) == []
    chain_id = await transfer.unpack(saved)
    assert chain_id == documents.chain_ids([digest_of(layer) for layer in spec_.layers])[-1]
    assert snapshotter.stat(chain_id).labels["containerd.io/snapshot.ref"] == chain_id
    assert await transfer.unpack(saved) == chain_id
    assert world.leftovers() == []


async def test_unpacking_what_is_not_there(world: World, registry: Registry) -> None:
    push(registry.address, "pull/half", "v1", spec("half"))
    transfer = world.transfer.bind("default")
    saved = await transfer.pull(f"{registry.address}/pull/half:v1", PullOptions(unpack=False))
    world.metadata.bind("default").content.delete(layer_digests(spec("half"))[0])
    with pytest.raises(NotFound):
        await transfer.unpack(saved)
    with pytest.raises(NotFound, match="snapshotter"):
        await transfer.unpack(saved, "none-such")
    assert world.leftovers() == []


async def test_by_digest(world: World, registry: Registry) -> None:
    digest = push(registry.address, "pull/digest", "v1", spec("digest"))
    name = f"{registry.address}/pull/digest"
    saved = await world.transfer.bind("default").pull(f"{name}:anything@{digest}")
    assert (saved.name, saved.target.digest) == (f"{name}@{digest}", digest)


async def test_an_index_gives_the_best_platform(world: World, registry: Registry) -> None:
    images = {name: ImageSpec(spec(name).layers, architecture=name) for name in ("amd64", "arm64", "386")}
    for name, image in images.items():
        push(registry.address, "pull/multi", name, image)
    entries = [entry(image.manifest(), platform=f"linux/{name}") for name, image in images.items()]
    nested = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": entries[:2]}
    inner = json.dumps(nested).encode()
    put(registry.address, "pull/multi", "manifests", "inner", inner, documents.OCI_INDEX)
    put_index(registry.address, "pull/multi", "flat", entries[::-1], documents.DOCKER_LIST)
    put_index(registry.address, "pull/multi", "nested", [entries[2], entry(inner, documents.OCI_INDEX)])
    put_index(registry.address, "pull/multi", "silent", [entry(image.manifest()) for image in images.values()][1:2])
    transfer = world.transfer.bind("default")
    for tag, platform, fetched in [
        ("flat", "amd64", "amd64"),
        ("flat", "arm64", "arm64"),
        ("nested", "arm64", "arm64"),
        ("silent", "arm64", "arm64"),
    ]:
        options = PullOptions(platforms=(Platform("linux", platform),))
        saved = await transfer.pull(f"{registry.address}/pull/multi:{tag}", options)
        assert documents.is_index(saved.target.media_type)
        assert layer_digests(images[fetched])[0] in world.blobs()
    for tag, platform in [("flat", "riscv64"), ("silent", "amd64")]:
        options = PullOptions(platforms=(Platform("linux", platform),))
        with pytest.raises(NotFound, match=f"linux/{platform}"):
            await transfer.pull(f"{registry.address}/pull/multi:{tag}", options)
    assert layer_digests(images["386"])[0] not in world.blobs()


async def test_indexes_within_indexes_are_bounded(world: World, registry: Registry) -> None:
    image = spec("deep")
    push(registry.address, "pull/deep", "image", image)
    data, media_type = image.manifest(), documents.OCI_MANIFEST
    for depth in range(documents.DEPTH_MAX + 1):
        data = json.dumps({"schemaVersion": 2, "manifests": [entry(data, media_type)]}).encode()
        media_type = documents.OCI_INDEX
        put(registry.address, "pull/deep", "manifests", f"d{depth}", data, media_type)
    await world.transfer.bind("default").pull(f"{registry.address}/pull/deep:d{documents.DEPTH_MAX - 1}")
    with pytest.raises(ResourceExhausted, match="within each other"):
        await world.transfer.bind("default").pull(f"{registry.address}/pull/deep:d{documents.DEPTH_MAX}")
    assert world.leftovers() == []


async def test_an_artifact_is_kept_and_not_unpacked(world: World, registry: Registry) -> None:
    blobs = {"application/vnd.example.config": b"{}", "application/vnd.example.data": b"anything"}
    for media_type, data in blobs.items():
        put(registry.address, "pull/artifact", "blobs", "", data, media_type)
    config, data = (entry(data, media_type) for media_type, data in blobs.items())
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": [data]}).encode()
    put(registry.address, "pull/artifact", "manifests", "v1", manifest, documents.OCI_MANIFEST)
    await world.transfer.bind("default").pull(f"{registry.address}/pull/artifact:v1")
    assert set(world.blobs()) == {digest_of(data) for data in (*blobs.values(), manifest)}


async def test_progress_tells_every_step_in_order(world: World, registry: Registry) -> None:
    push(registry.address, "pull/progress", "v1", spec("progress", size=100_000))
    told: list[Progress] = []
    reference = f"{registry.address}/pull/progress:v1"
    await world.transfer.bind("default").pull(reference, PullOptions(), told.append)
    assert [step.event for step in told if step.name == reference] == ["resolving", "resolved", "saved"]
    layer = [step for step in told if step.name.startswith("layer ")]
    # It may be extracted already when the last of it is verified.
    fetching = [step for step in layer if step.event != "extracting"]
    assert len(fetching) == len(layer) - 1
    events = [step.event for step in fetching]
    assert events == [*["downloading"] * (len(events) - 2), "complete", "extracted"]
    fetched = [step.progress for step in fetching]
    assert fetched == sorted(fetched)
    assert layer[-1].progress == layer[-1].total > 100_000
    assert layer[-1].parents == (reference,)


async def test_concurrent_pulls_fetch_each_blob_once(world: World, registry: Registry, proxy: FaultProxy) -> None:
    common = "common"
    images = {name: spec(common, name, size=50_000) for name in ("c1", "c2", "c3")}
    for name, image in images.items():
        push(registry.address, f"pull/{name}", "v1", image)
    transfer = world.transfer.bind("default")
    references = [f"{proxy.address}/pull/{name}:v1" for name in images]
    told: list[Progress] = []
    await asyncio.gather(*(transfer.pull(r, PullOptions(), told.append) for r in references * 3))
    for digest in {digest for image in images.values() for digest in layer_digests(image)}:
        assert len(proxy.requests(f"GET .*{digest}")) == 1
    assert any(step.event == "waiting" for step in told)
    assert len(list(world.metadata.bind("default").snapshotter().walk())) == len(
        {chain for image in images.values() for chain in documents.chain_ids([digest_of(x) for x in image.layers])}
    )
    assert world.leftovers() == []


async def test_what_is_not_there(world: World, registry: Registry) -> None:
    transfer = world.transfer.bind("default")
    for reference in (f"{registry.address}/no/such:v1", f"{registry.address}/library/busybox:none"):
        with pytest.raises(NotFound, match=r"http://127\.0\.0\.1:\d+: the answer was 404"):
            await transfer.pull(reference)
    with pytest.raises(Unavailable, match="Connection refused"):
        await transfer.pull(f"127.0.0.1:{free_port()}/a:b")
    with pytest.raises(InvalidArgument, match="at character 5"):
        await transfer.pull("Not/A-Reference")
    with pytest.raises(NotFound, match="snapshotter"):
        await transfer.pull(f"{registry.address}/library/busybox", PullOptions(snapshotter="none-such"))
    assert world.metadata.namespaces.list() == []


async def test_a_cancelled_pull_leaves_only_what_can_be_resumed(
    world: World, registry: Registry, proxy: FaultProxy
) -> None:
    image = spec("cancelled", size=2_000_000)
    push(registry.address, "pull/cancelled", "v1", image)
    proxy.rate = 4_000_000
    pull = asyncio.create_task(world.transfer.bind("default").pull(f"{proxy.address}/pull/cancelled:v1"))
    while not proxy.sent(r"GET .*/blobs/") > 1_300_000:
        await asyncio.sleep(0.01)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    view = world.metadata.bind("default")
    (lease,), (ingest,) = view.leases.list(), view.content.statuses()
    assert lease.labels["moorage.io/transfer.reference"] == f"{proxy.address}/pull/cancelled:v1"
    assert ingest.ref == f"layer-{layer_digests(image)[0]}"
    assert list(view.snapshotter().walk()) == []
    proxy.rate = 0
    before = proxy.sent(r"GET .*/blobs/sha256")
    await world.transfer.bind("default").pull(f"{proxy.address}/pull/cancelled:v1")
    ranges = [seen.headers.get("Range") for seen in proxy.requests(f"GET .*{layer_digests(image)[0]}")]
    assert ranges == [None, f"bytes={ingest.offset}-"]
    assert proxy.sent(r"GET .*/blobs/sha256") - before < 2_100_000 - ingest.offset
    assert world.leftovers() == []


async def test_a_pull_cancelled_at_any_moment_can_be_repeated(world: World, registry: Registry) -> None:
    push(registry.address, "pull/moments", "v1", spec("m1", "m2", size=400_000))
    reference = f"{registry.address}/pull/moments:v1"
    start = asyncio.get_running_loop().time()
    await world.transfer.bind("measure").pull(reference)
    duration = asyncio.get_running_loop().time() - start
    cancelled = 0
    for step in range(16):
        # A namespace that has nothing yet: what one pull has fetched, the next need not.
        namespace = f"moment-{step}"
        pull = asyncio.create_task(world.transfer.bind(namespace).pull(reference))
        await asyncio.wait([pull], timeout=duration * step / 20)
        pull.cancel()
        await asyncio.wait([pull])
        cancelled += pull.cancelled()
        assert len(world.metadata.bind(namespace).leases.list()) <= 1
        await world.transfer.bind(namespace).pull(reference)
        assert world.leftovers(namespace) == []
    assert cancelled > 3


async def test_a_descriptor_that_lies_about_a_blob_that_is_there(world: World, registry: Registry) -> None:
    image = spec("size")
    push(registry.address, "pull/size", "v1", image)
    await world.transfer.bind("default").pull(f"{registry.address}/pull/size:v1")
    manifest = json.loads(image.manifest())
    manifest["layers"][0]["size"] += 1
    put(registry.address, "pull/size", "manifests", "lie", json.dumps(manifest).encode(), documents.OCI_MANIFEST)
    with pytest.raises(InvalidArgument, match="its descriptor says"):
        await world.transfer.bind("default").pull(f"{registry.address}/pull/size:lie")
    assert world.leftovers() == []
