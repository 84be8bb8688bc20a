"""Archives in and out of the store: every form, byte for byte, and hostile ones."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from moorage_api.errors import InvalidArgument, MoorageError, NotFound, ResourceExhausted
from moorage_api.oci import image as documents
from moorage_api.transfer import ExportOptions, ImportOptions, NameRule, Progress, PullOptions
from moorage_api.types import Platform
from support.archives import Collected, oci_layout, pieces, tar_files, tar_of
from support.images import ImageSpec, digest_of, push
from support.registry import Registry
from support.transfer import World, entry, layer_digests, put_index, spec

NAMED = ImportOptions(rules=(NameRule("shelf.test/box", is_prefix=True, allow_overwrite=True),))
IMAGE = spec("one", "two")


async def load(world: World, files: dict[str, bytes], options: ImportOptions = NAMED) -> list[str]:
    stored = await world.transfer.bind("default").import_archive(pieces(tar_of(files)), options)
    return [image.name for image in stored]


async def save(world: World, *names: str, options: ExportOptions = ExportOptions()) -> dict[str, bytes]:
    collected = Collected()
    await world.transfer.bind("default").export_archive(names, collected, options)
    return collected.files()


def v1_archive(image: ImageSpec, tags: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What `docker save` wrote from 1.10 on: a layer that comes twice is a link the second time."""
    config, _ = image.blobs()
    files, links, paths = {}, {}, []
    seen: dict[str, str] = {}
    for number, layer in enumerate(image.layers):
        path = f"{number:064x}/layer.tar"
        paths.append(path)
        if digest_of(layer) in seen:
            links[path] = f"../{seen[digest_of(layer)]}"
        else:
            files[path] = layer
            seen[digest_of(layer)] = path
        files[f"{number:064x}/VERSION"] = b"1.0"
    name = f"{digest_of(config)[7:]}.json"
    files[name] = config
    files["manifest.json"] = json.dumps([{"Config": name, "RepoTags": tags, "Layers": paths}]).encode()
    return files, links


def v0_archive(image: ImageSpec, repository: str, tag: str) -> dict[str, bytes]:
    """What it wrote before: a chain of documents, and `repositories`."""
    files, parent = {}, ""
    for number, layer in enumerate(image.layers):
        id = f"{number + 1:064x}"
        step = {"id": id, "created": "2015-01-01T00:00:00Z", "architecture": "amd64", "os": "linux"}
        step |= {"parent": parent} if parent else {}
        step["config"] = dict(image.config)
        step["container_config"] = {"Cmd": ["/bin/sh", "-c", f"step {number}"]}
        files[f"{id}/json"] = json.dumps(step).encode()
        files[f"{id}/layer.tar"] = layer
        files[f"{id}/VERSION"] = b"1.0"
        parent = id
    files["repositories"] = json.dumps({repository: {tag: parent}}).encode()
    return files


async def test_an_image_survives_the_way_out_and_in_byte_for_byte(world: World, registry: Registry) -> None:
    digest = push(registry.address, "saved", "1", IMAGE)
    name = f"{registry.address}/saved:1"
    await world.transfer.bind("default").pull(name)
    files = await save(world, name)
    assert files["blobs/sha256/" + digest[7:]] == IMAGE.manifest()
    for path, data in files.items():
        if path.startswith("blobs/"):
            assert hashlib.sha256(data).hexdigest() == path.rpartition("/")[2]
    assert files == await save(world, name)

    stored = await world.transfer.bind("other").import_archive(
        pieces(tar_of(files)), ImportOptions(rules=NAMED.rules, unpack=True)
    )
    assert [(image.name, image.target.digest) for image in stored] == [(name, digest)]
    assert set(layer_digests(IMAGE)) <= set(world.blobs("other"))
    assert world.leftovers("other") == []
    view = world.metadata.bind("other")
    top = documents.chain_ids([digest_of(layer) for layer in IMAGE.layers])[-1]
    assert view.snapshotter().stat(top).kind.value == "Committed"


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:])]
)
async def test_compressed_archives_are_read(world: World, pack: Callable[[bytes], bytes]) -> None:
    data = pack(tar_of(oci_layout(IMAGE, name="1")))
    stored = await world.transfer.bind("default").import_archive(pieces(data, 777), NAMED)
    assert [image.name for image in stored] == ["shelf.test/box:1"]


async def test_docker_save_is_read(world: World) -> None:
    twice = ImageSpec([*IMAGE.layers, IMAGE.layers[0]])
    files, links = v1_archive(twice, ["box:1", "shelf.test/box:2"])
    stored = await world.transfer.bind("default").import_archive(pieces(tar_of(files, links)), NAMED)
    assert [image.name for image in stored] == ["docker.io/library/box:1", "shelf.test/box:2"]
    out = tar_files((await collect(world, "shelf.test/box:2")).data)
    manifest = json.loads(out["blobs/sha256/" + stored[1].target.digest[7:]])
    assert [layer["digest"] for layer in manifest["layers"]] == [digest_of(layer) for layer in twice.layers]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {documents.DOCKER_LAYER}
    assert out["blobs/sha256/" + manifest["config"]["digest"][7:]] == twice.blobs()[0]


async def collect(world: World, name: str) -> Collected:
    collected = Collected()
    await world.transfer.bind("default").export_archive([name], collected)
    return collected


async def test_layers_of_docker_save_are_compressed_where_that_is_asked_for(world: World) -> None:
    files, links = v1_archive(IMAGE, ["box:1"])
    options = ImportOptions(rules=NAMED.rules, compress=True)
    [stored] = await world.transfer.bind("default").import_archive(pieces(tar_of(files, links)), options)
    out = await save(world, stored.name)
    manifest = json.loads(out["blobs/sha256/" + stored.target.digest[7:]])
    for layer, raw in zip(manifest["layers"], IMAGE.layers, strict=True):
        assert layer["mediaType"] == documents.DOCKER_LAYER_GZIP
        assert gzip.decompress(out["blobs/sha256/" + layer["digest"][7:]]) == raw
        assert world.blobs()[layer["digest"]]["containerd.io/uncompressed"] == digest_of(raw)


async def test_the_oldest_docker_save_is_read(world: World) -> None:
    files = v0_archive(IMAGE, "box", "old")
    options = ImportOptions(rules=NAMED.rules, unpack=True)
    [stored] = await world.transfer.bind("default").import_archive(pieces(tar_of(files)), options)
    assert stored.name == "docker.io/library/box:old"
    out = await save(world, stored.name)
    manifest = json.loads(out["blobs/sha256/" + stored.target.digest[7:]])
    config = json.loads(out["blobs/sha256/" + manifest["config"]["digest"][7:]])
    assert config["rootfs"]["diff_ids"] == [digest_of(layer) for layer in IMAGE.layers]
    assert [step["created_by"] for step in config["history"]] == ["/bin/sh -c step 0", "/bin/sh -c step 1"]
    assert config["config"] == IMAGE.config


async def test_one_platform_of_an_index_or_all(world: World, registry: Registry) -> None:
    other = ImageSpec(IMAGE.layers, architecture="riscv64")
    push(registry.address, "multi", "a", IMAGE)
    push(registry.address, "multi", "b", other)
    entries = [
        entry(IMAGE.manifest(), platform="linux/amd64"),
        entry(other.manifest(), platform="linux/riscv64"),
    ]
    put_index(registry.address, "multi", "all", entries)
    name = f"{registry.address}/multi:all"
    bound = world.transfer.bind("default")
    await bound.pull(name)
    one = await save(world, name)
    assert "blobs/sha256/" + digest_of(other.manifest())[7:] not in one
    with pytest.raises(NotFound):
        await save(world, name, options=ExportOptions(all_platforms=True))
    await bound.pull(name, PullOptions(platforms=(Platform("linux", "riscv64"),), unpack=False))
    both = await save(world, name, options=ExportOptions(all_platforms=True))
    assert "blobs/sha256/" + digest_of(other.manifest())[7:] in both
    only = await save(world, name, options=ExportOptions(platforms=(Platform("linux", "riscv64"),)))
    assert "blobs/sha256/" + digest_of(IMAGE.manifest())[7:] not in only
    # An archive of one platform has an index that names more than is there.
    assert await world.transfer.bind("third").import_archive(pieces(tar_of(one)), NAMED)
    with pytest.raises(InvalidArgument, match="none of"):
        await world.transfer.bind("third").import_archive(
            pieces(tar_of(one)), ImportOptions(rules=NAMED.rules, platforms=(Platform("linux", "riscv64"),))
        )


async def test_images_without_a_name_are_named_by_digest(world: World) -> None:
    rule = NameRule("import", is_prefix=True, allow_overwrite=True, add_digest=True, skip_named_digest=True)
    options = ImportOptions(rules=(rule,))
    assert await load(world, oci_layout(IMAGE), options) == [f"import@{digest_of(IMAGE.manifest())}"]
    assert await load(world, oci_layout(IMAGE, name="7"), options) == ["import:7"]


async def test_progress_of_an_import(world: World) -> None:
    told: list[Progress] = []
    await world.transfer.bind("default").import_archive(
        pieces(tar_of(oci_layout(spec("big", size=3 << 20), name="1"))), NAMED, told.append
    )
    assert told[0].event == "importing"
    assert (told[-1].event, told[-1].name) == ("saved", "shelf.test/box:1")


def _flipped(files: dict[str, bytes], part: str) -> dict[str, bytes]:
    return {name: bytes([data[0] ^ 1]) + data[1:] if part in name else data for name, data in files.items()}


LAYOUT = oci_layout(IMAGE, name="1")
BLOB = "blobs/sha256/" + layer_digests(IMAGE)[0][7:]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "not a tar": (b"x" * 4096, "cannot be read"),
    "empty": (b"", "no archive of images"),
    "another tar": (tar_of({"etc/passwd": b"root"}), "no archive of images"),
    "cut": (tar_of(LAYOUT)[: len(oci_layout(IMAGE)["index.json"]) + 1024], "stops short|cannot be read|no index.json"),
    "cut gzip": (gzip.compress(tar_of(LAYOUT))[:-500], "stops short|cannot be read"),
    "damaged gzip": (gzip.compress(tar_of(LAYOUT))[:400] + bytes(4000), "damaged|cannot be read|stops short"),
    "bzip2": (b"BZh91AY&SY" + bytes(600), "bzip2"),
    "another layout": (tar_of({**LAYOUT, "oci-layout": b'{"imageLayoutVersion": "9"}'}), "version '9'"),
    "a layout that is no JSON": (tar_of({**LAYOUT, "oci-layout": b"["}), "not well-formed"),
    "no index": (tar_of({k: v for k, v in LAYOUT.items() if k != "index.json"}), "no index.json"),
    "a lying blob": (tar_of(_flipped(LAYOUT, BLOB)), "not what it says"),
    "a missing blob": (tar_of({k: v for k, v in LAYOUT.items() if k != BLOB}), "lacks sha256:"),
    "a mile of JSON": (tar_of({**LAYOUT, "index.json": b"[" * 100_000}), "nested|JSON"),
    "a wrong size": (
        tar_of({**LAYOUT, "index.json": LAYOUT["index.json"].replace(b'"size": ', b'"size": 1')}),
        "bytes, its descriptor",
    ),
    "files that are not there": (
        tar_of({"manifest.json": b'[{"Config": "../../etc/shadow", "Layers": []}]'}),
        "does not have it",
    ),
    "layers that do not match": (
        tar_of({**v1_archive(IMAGE, ["a:1"])[0], f"{0:064x}/layer.tar": IMAGE.layers[1]}),
        "as the configuration says",
    ),
    "a bad tag": (tar_of(v1_archive(IMAGE, ["UPPER case"])[0]), "invalid reference"),
    "an endless chain": (
        tar_of({"repositories": b'{"a": {"b": "x"}}', "x/json": b'{"parent": "x"}', "x/layer.tar": IMAGE.layers[0]}),
        "no end",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_archives_leave_nothing(world: World, case: str) -> None:
    data, why = HOSTILE[case]
    with pytest.raises((InvalidArgument, ResourceExhausted), match=why):
        await world.transfer.bind("default").import_archive(pieces(data), NAMED)
    view = world.metadata.bind("default")
    assert view.images.list() == []
    assert world.leftovers() == []


async def test_an_import_that_is_cancelled_leaves_nothing(world: World) -> None:
    started = asyncio.Event()

    async def slow() -> object:
        yield tar_of({"blobs/sha256/" + "0" * 64: bytes(3 << 20)})[: 2 << 20]
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(world.transfer.bind("default").import_archive(slow(), NAMED))  # type: ignore[arg-type]
    await asyncio.wait_for(started.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.leftovers() == []


async def test_an_export_of_a_damaged_store_fails(world: World, tmp_path: Path) -> None:
    await load(world, oci_layout(IMAGE, name="1"))
    layer = layer_digests(IMAGE)[0]
    [file] = [path for path in (world.folder / "content").rglob(layer[7:]) if path.is_file()]
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(MoorageError, match=layer):
        await save(world, "shelf.test/box:1")
