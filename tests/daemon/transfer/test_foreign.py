"""Foreign layers: had from the URLs that the manifest names, by whoever may pass them on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from moorage_api.errors import NotFound
from moorage_api.oci import image as documents
from moorage_api.oci.reference import parse
from moorage_api.transfer import Credentials, PullOptions
from mooraged.transfer.source import Source
from support.faultproxy import FaultProxy
from support.images import digest_of
from support.registry import Registry
from support.transfer import World, entry, layer_digests, put, spec

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
ELSEWHERE = spec("foreign", size=100_000)
SHELF = f"/v2/foreign/shelf/blobs/{layer_digests(ELSEWHERE)[0]}"


def push_foreign(shop: Registry, *urls: str, media_type: str = FOREIGN) -> str:
    """Push an image whose layer another repository has, at `SHELF`; returns the layer's digest."""
    config, (layer,) = ELSEWHERE.blobs()
    put(shop.address, "foreign/shelf", "blobs", "", layer, "application/octet-stream")
    put(shop.address, "foreign/image", "blobs", "", config, "application/octet-stream")
    described = {**entry(layer, media_type), "urls": list(urls)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": documents.DOCKER_MANIFEST,
        "config": entry(config, documents.DOCKER_CONFIG),
        "layers": [described],
    }
    data = json.dumps(manifest).encode()
    put(shop.address, "foreign/image", "manifests", "v1", data, documents.DOCKER_MANIFEST)
    return digest_of(layer)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that takes manifests with URLs."""
    allowed = {"validation": {"manifests": {"urls": {"allow": [".*"]}}}}
    with Registry(tmp_path_factory.mktemp("shop"), extra=allowed) as running:
        yield running


@pytest.fixture
async def shelf(shop: Registry) -> AsyncIterator[FaultProxy]:
    """Where the layer is, to a manifest's mind."""
    async with FaultProxy(f"http://{shop.address}") as running:
        yield running


async def with_password(_host: str) -> Credentials:
    return Credentials("anna", "harbour")


async def test_a_foreign_layer_comes_from_its_urls(world: World, shop: Registry, shelf: FaultProxy) -> None:
    """From the first that has it, without the credentials of the registry, which is asked before."""
    layer = push_foreign(shop, f"http://{shelf.address}/nowhere", f"http://{shelf.address}{SHELF}")
    options = PullOptions(credentials=with_password)
    await world.transfer.bind("default").pull(f"{shop.address}/foreign/image:v1", options)
    assert [seen.path for seen in shelf.seen] == ["/nowhere", SHELF]
    assert not any("Authorization" in seen.headers for seen in shelf.seen)
    assert layer in world.blobs()
    assert world.leftovers() == []


def test_only_urls_of_http_without_a_login_are_tried(world: World) -> None:
    repository = world.transfer.client.repository("registry.example", "a")
    source = Source(parse("registry.example/a"), [], repository)
    urls = ["ftp://a.example/x", "http://[", "https://me:secret@b.example/x", "nothing", "https://c.example/x?y=1#z"]
    assert [str(host) for host in source.foreign(urls).hosts] == ["https://c.example"]


async def test_urls_of_other_layers_do_not_count(world: World, shop: Registry, shelf: FaultProxy) -> None:
    push_foreign(shop, f"http://{shelf.address}{SHELF}", media_type=documents.DOCKER_LAYER_GZIP)
    with pytest.raises(NotFound):
        await world.transfer.bind("default").pull(f"{shop.address}/foreign/image:v1")
    assert shelf.seen == []


async def test_a_foreign_layer_that_the_registry_has(world: World, shop: Registry, shelf: FaultProxy) -> None:
    layer = push_foreign(shop, f"http://{shelf.address}{SHELF}")
    put(shop.address, "foreign/image", "blobs", "", ELSEWHERE.blobs()[1][0], "application/octet-stream")
    await world.transfer.bind("default").pull(f"{shop.address}/foreign/image:v1")
    assert layer in world.blobs()
    assert shelf.seen == []
