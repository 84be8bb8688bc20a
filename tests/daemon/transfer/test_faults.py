"""A registry that breaks off, stalls and lies: what is worth it is tried again, the rest is a clear error."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from moorage_api.errors import (
    DataLoss,
    InvalidArgument,
    MoorageError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from moorage_api.oci import image as documents
from moorage_api.transfer import PullOptions
from support.faultproxy import Fault, FaultProxy
from support.images import ImageSpec, digest_of, push
from support.registry import Registry
from support.transfer import World, entry, layer_digests, put, spec

SIZE = 2_500_000
BLOB = r"GET .*/blobs/"
LOST = 1 << 19


class Case:
    """One image behind the proxy, and pulls of it."""

    def __init__(self, world: World, registry: Registry, proxy: FaultProxy) -> None:
        self.world, self.proxy = world, proxy
        self.image = spec("fault", size=SIZE)
        self.manifest = push(registry.address, "faults/image", "v1", self.image)
        (self.layer,) = layer_digests(self.image)
        self.size = len(self.image.blobs()[1][0])
        self.reference = f"{proxy.address}/faults/image:v1"

    async def pull(self, *faults: Fault, **options: Any) -> None:
        self.proxy.faults[:] = faults
        await self.world.transfer.bind("default").pull(self.reference, PullOptions(**options))

    async def fails(self, kind: type[MoorageError], why: str, *faults: Fault) -> None:
        with pytest.raises(kind, match=why) as caught:
            await self.pull(*faults)
        assert type(caught.value) is kind
        assert self.world.metadata.bind("default").images.list() == []

    def gets(self, match: str = "") -> list[tuple[int, str]]:
        """Status and range of each request for the layer."""
        seen = self.proxy.requests(f"GET .*/blobs/{self.layer}")
        return [(one.status, one.headers.get("Range", "")) for one in seen]

    def offsets(self) -> list[int]:
        """Where each request for the layer began."""
        return [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for _, asked in self.gets()]

    def ends_well(self) -> None:
        assert self.layer in self.world.blobs()
        assert self.world.leftovers() == []


@pytest.fixture
def case(world: World, registry: Registry, proxy: FaultProxy) -> Case:
    return Case(world, registry, proxy)


# What passes by itself


async def test_a_broken_connection_is_resumed(case: Case) -> None:
    await case.pull(Fault(case.layer, times=2, cut=1_000_000))
    assert [status for status, _ in case.gets()] == [200, 206, 206]
    first, second, third = case.offsets()
    assert first == 0 < second <= 1_000_000 < third <= 2_000_000
    # What the connection's buffer still held when it broke is fetched again: at most half a MiB each time.
    assert case.proxy.sent(case.layer) <= case.size + 2 * LOST
    case.ends_well()


async def test_a_body_that_ends_early_without_a_length_is_resumed(case: Case) -> None:
    short = case.image.blobs()[1][0][:700_000]
    await case.pull(Fault(case.layer, times=1, chunked=True, body=short))
    assert case.gets() == [(200, ""), (206, "bytes=700000-")]
    case.ends_well()


async def test_a_server_without_ranges_is_read_from_the_start(case: Case) -> None:
    await case.pull(Fault(case.layer, times=1, cut=1_000_000), Fault(case.layer, ignore_range=True))
    assert [status for status, _ in case.gets()] == [200, 200]
    assert case.proxy.sent(case.layer) == case.size + 1_000_000
    assert case.offsets()[1] > 0
    case.ends_well()


async def test_a_stalled_body_is_resumed(case: Case) -> None:
    await case.pull(Fault(case.layer, times=1, cut=1_200_000, stall=30))
    assert case.gets()[1] == (206, "bytes=1200000-")
    assert len(case.gets()) == 2
    case.ends_well()


async def test_a_slow_body_is_no_stalled_one(case: Case) -> None:
    case.proxy.rate = SIZE * 2 // 3
    start = time.monotonic()
    await case.pull()
    assert time.monotonic() - start > 1.2, "it took longer than the progress time-out of 1 s"
    assert len(case.gets()) == 1
    case.ends_well()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_passing_errors_are_tried_again(case: Case, status: int) -> None:
    await case.pull(Fault("HEAD .*/manifests/", times=1, status=status), Fault(case.layer, times=2, status=status))
    assert [found for found, _ in case.gets()] == [status, status, 200]
    case.ends_well()


async def test_retry_after_is_kept_to(case: Case) -> None:
    start = time.monotonic()
    await case.pull(Fault(case.layer, times=1, status=429, headers={"Retry-After": "1"}))
    assert time.monotonic() - start >= 1
    case.ends_well()


async def test_a_registry_that_stays_away_leaves_what_can_be_resumed(case: Case) -> None:
    await case.fails(
        Unavailable, "503 Service Unavailable", Fault(case.layer, times=1, cut=1_500_000), Fault(case.layer, status=503)
    )
    (ingest,) = case.world.metadata.bind("default").content.statuses()
    assert ingest.ref == f"layer-{case.layer}"
    assert 1_500_000 - LOST <= ingest.offset <= 1_500_000
    await case.pull()
    assert case.gets()[-1] == (206, f"bytes={ingest.offset}-")
    case.ends_well()


# Ways around


@pytest.mark.parametrize("status", [405, 501])
async def test_a_registry_that_does_not_know_head(case: Case, status: int) -> None:
    await case.pull(Fault("HEAD", status=status))
    assert len(case.proxy.requests("GET .*/manifests/")) == 1
    case.ends_well()


@pytest.mark.parametrize("missing", ["Docker-Content-Digest", "Content-Length"])
async def test_headers_that_do_not_tell_all(case: Case, missing: str) -> None:
    await case.pull(Fault("HEAD", without=(missing,), chunked=missing == "Content-Length"))
    case.ends_well()


@pytest.mark.parametrize("media_type", ["application/json", "text/plain; charset=utf-8", ""])
async def test_a_general_content_type_is_looked_into(case: Case, media_type: str) -> None:
    await case.pull(Fault("manifests", headers={"Content-Type": media_type}))
    assert case.world.metadata.bind("default").images.get(case.reference).target.media_type == documents.OCI_MANIFEST


async def test_a_redirect_is_followed(case: Case, registry: Registry) -> None:
    await case.pull(Fault(BLOB, redirect=f"http://{registry.address}"))
    assert [status for status, _ in case.gets()] == [307]
    case.ends_well()


# Lies


async def test_wrong_bytes(case: Case) -> None:
    await case.fails(DataLoss, f"what came is not {case.layer}", Fault(case.layer, flip=True))
    assert case.world.leftovers() == []
    assert len(case.gets()) == 1


async def test_wrong_bytes_before_a_break_are_fetched_again(case: Case) -> None:
    await case.pull(Fault(case.layer, times=1, flip=True, cut=1_000_000))
    first, second, third = case.offsets()
    assert first == third == 0 < second
    case.ends_well()


async def test_a_wrong_manifest(case: Case) -> None:
    await case.fails(DataLoss, "was expected", Fault("GET .*/manifests/", flip=True))
    assert case.world.blobs() == {}
    assert case.world.leftovers() == []


async def test_a_digest_header_that_is_none(case: Case) -> None:
    await case.fails(DataLoss, "Docker-Content-Digest", Fault("HEAD", headers={"Docker-Content-Digest": "sha256:x"}))


async def test_a_digest_header_of_something_else(case: Case) -> None:
    other = "sha256:" + "0" * 64
    await case.fails(NotFound, "404", Fault("HEAD", headers={"Docker-Content-Digest": other}))
    case.reference = f"{case.proxy.address}/faults/image@{case.manifest}"
    await case.fails(DataLoss, "it offers", Fault("HEAD", headers={"Docker-Content-Digest": other}))


async def test_a_manifest_of_another_size(case: Case) -> None:
    long = case.image.manifest() + b" "
    await case.fails(ResourceExhausted, "more than", Fault("GET .*/manifests/", body=long))
    await case.fails(DataLoss, "was expected", Fault("GET .*/manifests/", body=long[:-2]))


async def test_a_huge_manifest_is_not_read(case: Case) -> None:
    await case.fails(ResourceExhausted, "104857600 bytes", Fault("HEAD", headers={"Content-Length": "104857600"}))
    await case.fails(ResourceExhausted, "more than", Fault("HEAD", status=405), Fault("GET", endless=True))
    assert case.proxy.sent("GET .*/manifests/") < documents.MANIFEST_MAX + (4 << 20)


async def test_a_blob_of_another_length(case: Case) -> None:
    await case.fails(DataLoss, "it has 5 bytes", Fault(case.layer, body=b"short"))
    await case.fails(DataLoss, "it has", Fault(case.layer, body=bytes(SIZE * 2)))
    assert case.world.leftovers() == []


async def test_an_endless_blob(case: Case) -> None:
    await case.fails(DataLoss, "more than the", Fault(case.layer, endless=True))
    assert case.proxy.sent(case.layer) < case.size + (16 << 20), "more than the sockets' buffers"
    assert case.world.leftovers() == []


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "bytes 1000000-2000000/99", "nonsense", ""])
async def test_a_range_that_was_not_asked_for(case: Case, content_range: str) -> None:
    faults = (
        Fault(case.layer, times=1, cut=1_000_000),
        Fault(case.layer, times=1, headers={"Content-Range": content_range}),
    )
    await case.fails(DataLoss, "it gives others", *faults)
    assert case.world.leftovers() == []


async def test_a_range_beyond_its_end_is_asked_whole(case: Case) -> None:
    await case.pull(Fault(case.layer, times=1, cut=1_000_000), Fault(case.layer, times=1, status=416))
    first, second, third = case.offsets()
    assert first == third == 0 < second
    case.ends_well()


async def test_redirects_in_a_circle(case: Case) -> None:
    await case.fails(Unavailable, "redirects more than", Fault(BLOB, redirect=f"http://{case.proxy.address}"))
    assert len(case.proxy.requests(BLOB)) < 20


@pytest.mark.parametrize("target", ["ftp://host/", "http://", "http://[", "//"])
async def test_redirects_to_nowhere(case: Case, target: str) -> None:
    await case.fails(Unavailable, "it redirects", Fault(BLOB, redirect=target))


async def test_the_registrys_words_are_quoted_in_bounds(case: Case) -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": "closed\r\n" + "x" * 5000}]}).encode()
    await case.fails(
        PermissionDenied,
        r"403 Forbidden \(DENIED: closedxxx",
        Fault("HEAD", times=0),
        Fault("GET", status=403, body=body),
    )
    with pytest.raises(PermissionDenied) as caught:
        await case.pull(Fault("manifests", status=403, body=body))
    assert len(str(caught.value)) < 600


async def test_documents_that_disagree(case: Case) -> None:
    for stated in (documents.OCI_INDEX, documents.DOCKER_MANIFEST):
        await case.fails(InvalidArgument, "calls itself", Fault("manifests", headers={"Content-Type": stated}))
    assert case.world.leftovers() == []


async def test_what_is_no_image(case: Case) -> None:
    body = b'{"mediaType":"application/vnd.example"}'
    await case.fails(
        InvalidArgument,
        "application/vnd.example",
        Fault("HEAD", status=405),
        Fault("GET", body=body, headers={"Docker-Content-Digest": digest_of(body), "Content-Type": ""}),
    )


# Images that contradict themselves


def push_as(registry: Registry, image: ImageSpec, tag: str, config: bytes, layers: list[dict[str, Any]]) -> str:
    """Push the layers of `image` under a configuration and descriptors of one's own."""
    repository = "faults/odd"
    for data in (*image.blobs()[1], config):
        put(registry.address, repository, "blobs", "", data, "application/octet-stream")
    manifest = {"schemaVersion": 2, "config": entry(config, documents.OCI_CONFIG), "layers": layers}
    put(registry.address, repository, "manifests", tag, json.dumps(manifest).encode(), documents.OCI_MANIFEST)
    return f"{registry.address}/{repository}:{tag}"


async def test_a_layer_that_is_not_what_the_configuration_says(world: World, registry: Registry) -> None:
    image = spec("odd", "even")
    config = json.loads(image.blobs()[0])
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    layers = [entry(data, documents.OCI_LAYER_GZIP) for data in image.blobs()[1]]
    reference = push_as(registry, image, "diff-id", json.dumps(config).encode(), layers)
    with pytest.raises(DataLoss, match="configuration says"):
        await world.transfer.bind("default").pull(reference)
    assert world.leftovers() == []
    assert world.metadata.bind("default").images.list() == []


async def test_more_layers_than_diff_ids(world: World, registry: Registry) -> None:
    image = spec("odd", "even")
    layers = [entry(data, documents.OCI_LAYER_GZIP) for data in image.blobs()[1]]
    reference = push_as(registry, image, "count", image.blobs()[0], [*layers, layers[0]])
    with pytest.raises(InvalidArgument, match="3 layers, the configuration 2"):
        await world.transfer.bind("default").pull(reference)
    assert world.leftovers() == []


async def test_a_layer_that_stands_twice_is_fetched_once(world: World, registry: Registry, proxy: FaultProxy) -> None:
    once = spec("twice")
    image = ImageSpec([*once.layers, *once.layers])
    push(registry.address, "faults/twice", "v1", image)
    await world.transfer.bind("default").pull(f"{proxy.address}/faults/twice:v1")
    assert len(proxy.requests(f"GET .*{layer_digests(once)[0]}")) == 1
    assert len(list(world.metadata.bind("default").snapshotter().walk())) == 2


# What an ingest may hold already


@pytest.mark.parametrize("whole", [False, True])
async def test_an_ingest_with_wrong_bytes_is_begun_again(case: Case, whole: bool) -> None:
    content = case.world.metadata.bind("default").content
    with content.writer(f"layer-{case.layer}", case.size, case.layer) as writer:
        writer.write(bytes(case.size if whole else 1_000_000))
    await case.pull()
    case.ends_well()


async def test_an_ingest_with_too_many_bytes_is_begun_again(case: Case) -> None:
    with case.world.metadata.bind("default").content.writer(f"layer-{case.layer}") as writer:
        writer.write(bytes(case.size + 1))
    await case.pull()
    case.ends_well()


async def test_a_whole_ingest_is_not_fetched(case: Case) -> None:
    with case.world.metadata.bind("default").content.writer(f"layer-{case.layer}", case.size, case.layer) as writer:
        writer.write(case.image.blobs()[1][0])
    await case.pull()
    assert case.gets() == []
    case.ends_well()
