"""Pulls of images of Docker's schema 1. Debian's registry does not take them any more: the proxy in front of it serves
their manifests, and the registry their layers."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest

from moorage_api.errors import DataLoss, InvalidArgument, MoorageError, NotFound
from moorage_api.oci import image as documents
from moorage_api.transfer import PullOptions
from mooraged.transfer import schema1
from mooraged.transfer.documents import read_blob
from support.faultproxy import Fault, FaultProxy
from support.images import ImageSpec, digest_of, push
from support.registry import Registry
from support.transfer import World, put, spec

EMPTY_TAR = gzip.compress(bytes(1024), 6, mtime=0)


def manifest(*blobs: tuple[str, Mapping[str, Any]], signed: bool = True) -> bytes:
    """A manifest of these blobs and steps, the lowest first; signed as Docker did, by nobody in particular."""
    document = {
        "schemaVersion": 1,
        "name": "old/image",
        "tag": "v1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": digest} for digest, _ in reversed(blobs)],
        "history": [{"v1Compatibility": json.dumps(step)} for _, step in reversed(blobs)],
    }
    text = json.dumps(document, indent=3).encode()
    if not signed:
        return text
    protected = {"formatLength": len(text) - 2, "formatTail": _base64url(b"\n}"), "time": "2015-01-01T00:00:00Z"}
    signature = {"protected": _base64url(json.dumps(protected).encode()), "signature": "bm9uZQ", "header": {}}
    return text[:-2] + b',\n   "signatures": [' + json.dumps(signature).encode() + b"]\n}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Old:
    """An image behind the proxy of which the registry has the layers only."""

    def __init__(self, world: World, registry: Registry, proxy: FaultProxy) -> None:
        self.world, self.proxy = world, proxy
        self.image = spec("below", "above")
        push(registry.address, "old/image", "v1", self.image)
        put(registry.address, "old/image", "blobs", "", EMPTY_TAR, "application/octet-stream")
        below, above = (digest_of(layer) for layer in self.image.blobs()[1])
        self.steps: list[tuple[str, Mapping[str, Any]]] = [
            (
                below,
                {"id": "a", "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["/bin/sh", "-c", "below"]}},
            ),
            (digest_of(EMPTY_TAR), {"id": "b", "parent": "a", "throwaway": True}),
            (above, {"id": "c", "parent": "b", "os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh"]}}),
        ]
        self.reference = f"{proxy.address}/old/image"

    def serve(self, data: bytes, *more: Fault, media_type: str = documents.DOCKER_SCHEMA1, digest: str = "") -> None:
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest or schema1.digest(data, "sha256")}
        self.proxy.faults[:] = [*more, Fault("manifests", status=200, body=data, headers=headers)]

    async def pull(self, object: str = ":v1", **options: Any) -> documents.Manifest:
        """Pull it; returns the manifest that the image has then."""
        pulled = await self.world.transfer.bind("default").pull(self.reference + object, PullOptions(**options))
        content = self.world.metadata.bind("default").content
        return documents.parse_manifest(read_blob(content, pulled.target, 1 << 20), pulled.target.media_type)

    def config(self, found: documents.Manifest) -> documents.ImageConfig:
        content = self.world.metadata.bind("default").content
        return documents.parse_config(read_blob(content, found.config.descriptor(), 1 << 20))


@pytest.fixture
def old(world: World, registry: Registry, proxy: FaultProxy) -> Old:
    return Old(world, registry, proxy)


@pytest.mark.parametrize("signed", [True, False])
async def test_an_old_image_becomes_a_new_one(old: Old, signed: bool) -> None:
    media_type = documents.DOCKER_SCHEMA1 if signed else documents.DOCKER_SCHEMA1_UNSIGNED
    old.serve(manifest(*old.steps, signed=signed), media_type=media_type)
    found = await old.pull()
    assert [layer.digest for layer in found.layers] == [old.steps[0][0], old.steps[2][0]]
    assert {layer.media_type for layer in found.layers} == {documents.OCI_LAYER_GZIP}
    config = old.config(found)
    assert list(config.rootfs.diff_ids) == [digest_of(layer) for layer in old.image.layers]
    assert (config.os, config.architecture, config.config.cmd) == ("linux", "amd64", ("sh",))
    assert [step.empty_layer for step in config.history] == [False, True, False]
    assert config.history[0].created_by == "/bin/sh -c below"
    top = documents.chain_ids(config.rootfs.diff_ids)[-1]
    old.world.metadata.bind("default").snapshotter().stat(top)
    assert old.world.leftovers() == []


async def test_the_same_image_gives_the_same_manifest(old: Old) -> None:
    old.serve(manifest(*old.steps))
    first = await old.pull()
    fetched = len(old.proxy.requests("GET .*/blobs/"))
    assert await old.pull() == first
    assert len(old.proxy.requests("GET .*/blobs/")) == fetched


async def test_by_digest_the_signatures_do_not_count(old: Old) -> None:
    data = manifest(*old.steps)
    old.serve(data)
    plain = digest_of(manifest(*old.steps, signed=False))
    await old.pull(f"@{plain}")
    with pytest.raises(DataLoss):
        await old.pull("@" + digest_of(data))


async def test_a_manifest_that_is_not_what_was_announced(old: Old) -> None:
    old.serve(manifest(*old.steps), digest="sha256:" + "0" * 64)
    with pytest.raises(DataLoss, match="what came is not sha256:0000"):
        await old.pull()
    assert old.world.blobs() == {}


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (manifest(), InvalidArgument, "not as many layers"),
        (manifest(("sha256:" + "0" * 64, {"id": "a"})), NotFound, "fetch sha256:0000"),
        (manifest(("../../etc/passwd", {"id": "a"})), InvalidArgument, "digest"),
        (b'{"schemaVersion":1,"fsLayers":[{"blobSum":1}],"history":[]}', InvalidArgument, "well-formed"),
        (b'{"schemaVersion":1,"signatures":[{"protected":"bm8"}]}', DataLoss, "what came is not"),
        (b'{"schemaVersion":1,"fsLayers":[],"history":[{"v1Compatibility":"[]"}]}', InvalidArgument, "JSON object"),
    ],
)
async def test_what_is_no_such_image(old: Old, data: bytes, error: type[MoorageError], why: str) -> None:
    old.serve(data, digest=schema1.digest(data, "sha256") or digest_of(data))
    with pytest.raises(error, match=why):
        await old.pull()
    assert old.world.metadata.bind("default").images.list() == []
    assert old.world.leftovers() == []


async def test_layers_of_other_kinds(old: Old, registry: Registry) -> None:
    """Whatever the blobs are, the new manifest says so: here one is not compressed."""
    tar = ImageSpec([spec("plain").layers[0]]).layers[0]
    put(registry.address, "old/image", "blobs", "", tar, "application/octet-stream")
    old.serve(manifest(old.steps[0], (digest_of(tar), {"id": "p", "os": "linux"})))
    found = await old.pull()
    assert [layer.media_type for layer in found.layers] == [documents.OCI_LAYER_GZIP, documents.OCI_LAYER]
    assert old.config(found).rootfs.diff_ids[1] == digest_of(tar)


async def test_a_damaged_layer(old: Old) -> None:
    damaged = old.steps[0][0]
    old.serve(manifest(*old.steps), Fault(f"GET .*/{damaged}", flip=True))
    with pytest.raises(DataLoss):
        await old.pull()
    assert damaged not in old.world.blobs()
