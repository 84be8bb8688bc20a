"""Nasty images unpacked by Moorage, umoci and containerd: the same trees, or a known reason why not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import moorage
from moorage.transfer import Transfers
from moorage_api.linux.tree import remove_tree
from moorage_api.oci import image as documents
from moorage_api.transfer import ImportOptions, NameRule
from support.archives import folder_of, oci_layout, tar_of
from support.cell import SNAPSHOTTERS
from support.daemon import Daemon
from support.images import ImageSpec, digest_of
from support.nasty import CONTAINERD, KNOWN, KNOWN_OVERLAY, NASTY, UMOCI, many_files
from support.peer import Peer
from support.treelist import Listing, differences, listing, tree_of

MANY = int(os.environ.get("MOORAGE_MANY_FILES", "2000"))
"""MOORAGE_MANY_FILES=100000 takes about two minutes."""
IMAGES = {**{name: make() for name, make in NASTY.items()}, f"{MANY} files": many_files(MANY)}
TAGS = {name: f"i{number}" for number, name in enumerate(IMAGES)}
BEGIN = time.time_ns() - 1_000_000_000
FAILS = "cannot unpack it"
REPOSITORY = "nasty.test/image"


def layout(*names: str) -> bytes:
    """An OCI archive of these images, each under its tag."""
    files: dict[str, bytes] = {}
    manifests = []
    for name in names:
        made = oci_layout(ImageSpec(IMAGES[name]), name=TAGS[name])
        manifests += json.loads(made["index.json"])["manifests"]
        files |= made
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return tar_of(files)


@pytest.fixture(scope="module")
def umoci(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Listing | None]:
    """The trees that umoci makes; None where it fails."""
    folder, found = folder_of(layout(*IMAGES), tmp_path_factory.mktemp("oci")), {}
    for name, tag in TAGS.items():
        root = tmp_path_factory.mktemp("umoci") / "root"
        command = ["umoci", "raw", "unpack", "--image", f"{folder}:{tag}", root]
        done = subprocess.run(command, check=False, capture_output=True)
        found[name] = listing(root) if done.returncode == 0 else None
        remove_tree(str(root))
    return found


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Listing | None]]:
    """The trees that containerd's overlayfs shows; None where it fails to unpack."""
    folder = tmp_path_factory.mktemp("containerd")
    good = [name for name in IMAGES if not KNOWN.get((name, CONTAINERD), "").startswith(FAILS)]
    found: dict[str, Listing | None] = {}
    with Peer() as peer:
        for names in (good, *([name] for name in IMAGES if name not in good)):
            (folder / "archive.tar").write_bytes(layout(*names))
            command = ["ctr", "images", "import", "--base-name", REPOSITORY, "--all-platforms", folder / "archive.tar"]
            done = peer.call(*command)
            assert (done.returncode == 0) == (names is good), done.stderr
            for name in names if names is not good else ():
                found[name] = None
        for name in good:
            root = folder / TAGS[name]
            root.mkdir()
            peer.run("ctr", "images", "mount", f"{REPOSITORY}:{TAGS[name]}", root)
            found[name] = listing(root)
            peer.run("ctr", "images", "unmount", "--rm", root)
        yield found


@pytest.fixture(scope="module")
def trees() -> dict[str, dict[str, Listing]]:
    """Moorage's own, by snapshotter."""
    found: dict[str, dict[str, Listing]] = {}

    async def unpack(daemon: Daemon, snapshotter: str) -> dict[str, Listing]:
        pieces = [layout(*IMAGES)]

        async def source() -> bytes:
            return pieces.pop() if pieces else b""

        rules = (NameRule(REPOSITORY, is_prefix=True, allow_overwrite=True),)
        async with moorage.connect(daemon.address) as client:
            options = ImportOptions(rules=rules, unpack=True, snapshotter=snapshotter)
            await Transfers(client.session).import_(source, options)
            made = {}
            for name, layers in IMAGES.items():
                top = documents.chain_ids([digest_of(layer) for layer in layers])[-1]
                made[name] = await tree_of(client, snapshotter, top)
            return made

    with Daemon() as daemon:
        for snapshotter in SNAPSHOTTERS:
            found[snapshotter] = asyncio.run(unpack(daemon, snapshotter))
    return found


def compared(own: Listing, other: Listing, *, touched: bool) -> list[str]:
    """How two trees differ. The time of a folder that no layer gave one is the moment of unpacking. `touched`: the other
    tool gives that to every folder that a layer adds to, too."""
    left, right = {}, {}
    for name in own.keys() | other.keys():
        left[name], right[name] = own.get(name, ()), other.get(name, ())
        if name in own and name in other and own[name][0] == other[name][0] == "folder":
            times = own[name][4], other[name][4]
            if all(isinstance(time, int) and time > BEGIN for time in (times if not touched else times[1:])):
                left[name], right[name] = (*own[name][:4], "now"), (*other[name][:4], "now")
    return differences(left, right)


def check(own: Listing, other: Listing | None, reason: str, *, touched: bool) -> None:
    """That the trees are the same, or differ for a reason; one that is none any more has to go."""
    if reason.startswith(FAILS):
        assert other is None, "it can now"
        return
    assert other is not None, "it cannot unpack it"
    found = compared(own, other, touched=touched)
    assert bool(found) == bool(reason), found or f"no difference any more: {reason}"


@pytest.mark.parametrize("name", IMAGES)
def test_overlayfs_and_containerd(
    trees: dict[str, dict[str, Listing]], containerd: dict[str, Listing | None], name: str
) -> None:
    check(trees["overlayfs"][name], containerd[name], KNOWN.get((name, CONTAINERD), ""), touched=True)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_umoci(
    trees: dict[str, dict[str, Listing]], umoci: dict[str, Listing | None], name: str, snapshotter: str
) -> None:
    reason = KNOWN.get((name, UMOCI), "")
    if snapshotter == "overlayfs":
        reason = reason or KNOWN_OVERLAY.get((name, UMOCI), "")
    check(trees[snapshotter][name], umoci[name], reason, touched=False)


def test_sparse_files_of_old_are_read_as_gnu_tar_reads_them(
    trees: dict[str, dict[str, Listing]], tmp_path: Path
) -> None:
    """Nobody else does, so tar itself is the judge."""
    subprocess.run(["tar", "-x", "-C", tmp_path], input=IMAGES["sparse files of old"][0], check=True)
    for snapshotter in SNAPSHOTTERS:
        assert compared(trees[snapshotter]["sparse files of old"], listing(tmp_path), touched=False) == []
