"""Archives between Moorage and the tools that others use: skopeo, umoci, containerd's ctr, Docker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.images import Image
from moorage_api.transfer import ExportOptions, ImportOptions, NameRule
from support.archives import Collected, folder_of, oci_layout, pieces, tar_of
from support.daemon import Daemon
from support.dockerd import Dockerd
from support.images import ImageSpec, digest_of
from support.peer import Peer
from support.transfer import World, spec

NAME = "shelf.test/box:1"
IMAGE = spec("one", "two")
RULES = ImportOptions(rules=(NameRule("shelf.test/box", is_prefix=True, allow_overwrite=True),))


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], env=env, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"{words} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


async def read(world: World, archive: Path, options: ImportOptions = RULES, namespace: str = "default") -> list[Image]:
    return await world.transfer.bind(namespace).import_archive(pieces(archive.read_bytes()), options)


async def written(world: World, path: Path, options: ExportOptions = ExportOptions()) -> Path:
    """The archive that Moorage writes of the image."""
    await world.transfer.bind("default").import_archive(pieces(tar_of(oci_layout(IMAGE, name="1"))), RULES)
    collected = Collected()
    await world.transfer.bind("default").export_archive([NAME], collected, options)
    path.write_bytes(collected.data)
    return path


def diff_ids(image: ImageSpec) -> list[str]:
    return [digest_of(layer) for layer in image.layers]


async def test_skopeo(world: World, tmp_path: Path) -> None:
    archive = await written(world, tmp_path / "ours.tar")
    found = json.loads(run("skopeo", "inspect", "--raw", f"oci-archive:{archive}:1"))
    assert found == json.loads(IMAGE.manifest())
    run("skopeo", "copy", f"docker-archive:{archive}", f"dir:{tmp_path}/dir")
    run("skopeo", "copy", f"oci-archive:{archive}:1", f"oci-archive:{tmp_path}/oci.tar:7")
    run("skopeo", "copy", f"oci-archive:{archive}:1", f"docker-archive:{tmp_path}/docker.tar:shelf.test/box:8")
    [oci] = await read(world, tmp_path / "oci.tar")
    assert (oci.name, oci.target.digest) == ("shelf.test/box:7", digest_of(IMAGE.manifest()))
    [docker] = await read(world, tmp_path / "docker.tar")
    assert docker.name == "shelf.test/box:8"
    bound = world.transfer.bind("default")
    assert await bound.unpack(docker) == await bound.unpack(oci)


async def test_umoci(world: World, tmp_path: Path) -> None:
    archive = await written(world, tmp_path / "ours.tar")
    layout = folder_of(archive.read_bytes(), tmp_path / "layout")
    run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/one").read_bytes() == b"one"
    # umoci copies annotations that it does not know: the full name would be that of the first image.
    index = json.loads((layout / "index.json").read_text())
    del index["manifests"][0]["annotations"]["io.containerd.image.name"]
    (layout / "index.json").write_text(json.dumps(index))
    run("umoci", "config", "--image", f"{layout}:1", "--tag", "changed", "--config.cmd", "top")
    (layout / "manifest.json").unlink()
    run("tar", "-C", layout, "-cf", tmp_path / "theirs.tar", ".")
    images = {image.name: image for image in await read(world, tmp_path / "theirs.tar")}
    assert images["shelf.test/box:changed"].target.digest != digest_of(IMAGE.manifest())
    await world.transfer.bind("default").unpack(images["shelf.test/box:changed"])


async def test_containerd(world: World, tmp_path: Path) -> None:
    archive = await written(world, tmp_path / "ours.tar")
    with Peer() as peer:
        run("ctr", "images", "import", archive, env=peer.environment)
        listed = run("ctr", "images", "ls", env=peer.environment)
        assert NAME in listed
        assert digest_of(IMAGE.manifest()) in listed
        run("ctr", "images", "export", tmp_path / "theirs.tar", NAME, env=peer.environment)
    [image] = await read(world, tmp_path / "theirs.tar", namespace="back")
    assert (image.name, image.target.digest) == (NAME, digest_of(IMAGE.manifest()))
    await world.transfer.bind("back").unpack(image)


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    with Daemon() as daemon, Dockerd(daemon) as running:
        yield running


async def test_docker(world: World, tmp_path: Path, docker: Dockerd) -> None:
    archive = await written(world, tmp_path / "ours.tar")
    assert NAME in docker("load", "-i", str(archive))
    inspected = json.loads(docker("image", "inspect", NAME))[0]
    assert inspected["RootFS"]["Layers"] == diff_ids(IMAGE)
    docker("save", "-o", str(tmp_path / "theirs.tar"), NAME)
    os.chmod(tmp_path / "theirs.tar", 0o644)
    [image] = await read(world, tmp_path / "theirs.tar", namespace="back")
    assert image.name == NAME
    bound = world.transfer.bind("back")
    ours = world.metadata.bind("default").images.get(NAME)
    assert await bound.unpack(image) == await world.transfer.bind("default").unpack(ours)
    # And once more the way back: what it saved and we read, it loads.
    collected = Collected()
    await bound.export_archive([NAME], collected)
    (tmp_path / "again.tar").write_bytes(collected.data)
    docker("rmi", NAME)
    assert NAME in docker("load", "-i", str(tmp_path / "again.tar"))
