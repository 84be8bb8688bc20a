"""Images in another form, and images made of changes."""

from __future__ import annotations

import gzip
import json

import pytest
import zstandard

from moorage_api.errors import DataLoss, InvalidArgument, NotFound
from moorage_api.oci import build
from moorage_api.oci import image as documents
from moorage_api.transfer import ConvertOptions, ImportOptions, NameRule
from moorage_api.types import Descriptor
from mooraged.transfer.documents import read_blob
from support.archives import oci_layout, pieces, tar_of
from support.images import ImageSpec, digest_of
from support.transfer import World, spec

IMAGE = spec("one", "two")
SAVED = "shelf.test/box:1"


async def load(world: World, files: dict[str, bytes]) -> None:
    rules = (NameRule("shelf.test/box", is_prefix=True, allow_overwrite=True),)
    await world.transfer.bind("default").import_archive(pieces(tar_of(files)), ImportOptions(rules=rules))


def docker_archive(image: ImageSpec) -> dict[str, bytes]:
    config, _ = image.blobs()
    layers = {f"{number}/layer.tar": layer for number, layer in enumerate(image.layers)}
    saved = [{"Config": "config.json", "RepoTags": [SAVED], "Layers": list(layers)}]
    return {"config.json": config, **layers, "manifest.json": json.dumps(saved).encode()}


def blob(world: World, descriptor: Descriptor) -> bytes:
    return read_blob(world.metadata.bind("default").content, descriptor, 1 << 30)


def manifest(world: World, target: Descriptor) -> documents.Manifest:
    return documents.parse_manifest(blob(world, target), target.media_type)


async def test_gzip_becomes_zstd_and_unpacks_to_the_same_snapshots(world: World) -> None:
    await load(world, oci_layout(IMAGE, name="1"))
    bound = world.transfer.bind("default")
    made = await bound.convert(SAVED, "shelf.test/box:zstd", ConvertOptions(compression="zstd", labels={"a": "b"}))
    assert made.labels == {"a": "b"}
    old = manifest(world, world.metadata.bind("default").images.get(SAVED).target)
    new = manifest(world, made.target)
    assert new.config == old.config
    for layer, raw in zip(new.children()[1:], IMAGE.layers, strict=True):
        assert layer.media_type == documents.OCI_LAYER_ZSTD
        data = blob(world, layer)
        assert zstandard.ZstdDecompressor().decompressobj().decompress(data) == raw
        assert world.blobs()[layer.digest]["containerd.io/uncompressed"] == digest_of(raw)
    assert await bound.unpack(made) == await bound.unpack(world.metadata.bind("default").images.get(SAVED))
    assert world.leftovers() == []
    # What is in the form asked for already stays as it is.
    again = await bound.convert("shelf.test/box:zstd", "shelf.test/box:again", ConvertOptions(compression="zstd"))
    assert again.target.digest == made.target.digest


async def test_docker_becomes_oci(world: World) -> None:
    await load(world, docker_archive(IMAGE))
    bound = world.transfer.bind("default")
    made = await bound.convert(SAVED, "shelf.test/box:oci", ConvertOptions(oci=True, compression="gzip"))
    assert made.target.media_type == documents.OCI_MANIFEST
    new = manifest(world, made.target)
    assert new.config.media_type == documents.OCI_CONFIG
    assert [layer.media_type for layer in new.layers] == [documents.OCI_LAYER_GZIP] * 2
    assert [gzip.decompress(blob(world, layer)) for layer in new.children()[1:]] == list(IMAGE.layers)
    kept = await bound.convert(SAVED, "shelf.test/box:docker", ConvertOptions(compression="gzip"))
    assert {layer.media_type for layer in manifest(world, kept.target).layers} == {documents.DOCKER_LAYER_GZIP}


async def test_what_cannot_be_converted(world: World) -> None:
    bound = world.transfer.bind("default")
    with pytest.raises(NotFound):
        await bound.convert(SAVED, "x")
    lying = ImageSpec(IMAGE.layers[:1])
    files = oci_layout(lying, name="1")
    config = json.loads(lying.blobs()[0])
    config["rootfs"]["diff_ids"] = ["sha256:" + "1" * 64]
    await load(world, {**files, **_with_config(files, lying, json.dumps(config).encode())})
    with pytest.raises(InvalidArgument, match="bzip2"):
        await bound.convert(SAVED, "x", ConvertOptions(compression="bzip2"))
    with pytest.raises(DataLoss, match="configuration says"):
        await bound.convert(SAVED, "x", ConvertOptions(compression="zstd"))
    assert world.leftovers() == []


def _with_config(files: dict[str, bytes], image: ImageSpec, config: bytes) -> dict[str, bytes]:
    document = json.loads(image.manifest())
    document["config"] |= {"digest": digest_of(config), "size": len(config)}
    data = json.dumps(document).encode()
    index = json.loads(files["index.json"])
    index["manifests"][0] |= {"digest": digest_of(data), "size": len(data)}
    blobs = {f"blobs/sha256/{digest_of(one)[7:]}": one for one in (config, data)}
    return {"index.json": json.dumps(index).encode(), **blobs}


def test_a_layer_is_added_to_a_configuration() -> None:
    config = json.dumps({**json.loads(IMAGE.blobs()[0]), "moby.special": {"kept": True}}).encode()
    layer = Descriptor(documents.OCI_LAYER_GZIP, "sha256:" + "2" * 64, 5, {build.UNCOMPRESSED: "sha256:" + "3" * 64})
    change = build.Change("2026-02-03T04:05:06Z", "moorage commit", "anna", "a note", {"Cmd": ["top"], "Env": None})
    made = json.loads(build.add_layer(config, layer, change))
    assert made["rootfs"]["diff_ids"] == [*map(digest_of, IMAGE.layers), "sha256:" + "3" * 64]
    assert made["history"][-1] == {
        "created": "2026-02-03T04:05:06Z",
        "created_by": "moorage commit",
        "author": "anna",
        "comment": "a note",
    }
    assert (made["created"], made["author"]) == ("2026-02-03T04:05:06Z", "anna")
    assert made["config"] == {"Cmd": ["top"]}
    assert made["moby.special"] == {"kept": True}
    with pytest.raises(InvalidArgument, match="annotation"):
        build.add_layer(config, Descriptor("", layer.digest, 5))
    [bare] = build.without_annotations([layer])
    document = json.loads(build.manifest(bare, [bare]))
    assert list(document) == ["schemaVersion", "mediaType", "config", "layers"]
    assert document["layers"] == [{"mediaType": bare.media_type, "digest": bare.digest, "size": 5}]
