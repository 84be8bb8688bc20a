"""The command line against Debian's containerd: what Moorage's own client speaks is containerd's API.

That containerd has no transfer service and no CRI logs; all else is as with a daemon of Moorage.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.cli.app import execute
from support import inprocess
from support.images import MANIFEST, ImageSpec, digest_of
from support.peer import Peer

NAME = "docker.io/library/busybox:latest"


def archive(path: Path) -> Path:
    """An OCI image layout as a tar, for `ctr images import`."""
    image = ImageSpec()
    manifest, (config, layers) = image.manifest(), image.blobs()
    entry = {
        "mediaType": MANIFEST,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": NAME},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{f"blobs/sha256/{digest_of(blob)[7:]}": blob for blob in (manifest, config, *layers)},
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    path = archive(tmp_path_factory.mktemp("image") / "image.tar")
    with Peer() as running:
        command = ["ctr", "--namespace", "default", "images", "import", str(path)]
        subprocess.run(command, env=running.environment, check=True, capture_output=True)
        yield running


def call(peer: Peer, *words: str, input: str = "") -> inprocess.Done:
    environment = {
        **{key: value for key, value in peer.environment.items() if not key.startswith("MOORAGE_ADDRESS")},
        "MOORAGE_NETWORK": "none",
        "MOORAGE_CGROUP_PARENT": f"/{peer.cgroup_parent}",
    }
    return inprocess.call(execute, words, environment, input)


def test_a_containers_life(peer: Peer) -> None:
    assert "1.6" in call(peer, "version").stdout
    assert call(peer, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout == "busybox:latest\n"
    done = call(peer, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo error >&2; exit 3", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "error\n")
    assert call(peer, "run", "--rm", "busybox", "no-such-program").returncode == 127
    assert call(peer, "run", "-d", "--name", "boat", "busybox", "sleep", "100").returncode == 0
    assert call(peer, "exec", "-u", "www-data", "boat", "id", "-u").stdout == "33\n"
    again = call(peer, "run", "--name", "boat", "busybox", "true")
    assert (again.returncode, "in use by container" in again.stderr) == (125, True)
    assert call(peer, "stop", "-t", "0.2", "boat").stdout == "boat\n"
    assert "Exited (137)" in call(peer, "ps", "-a").stdout
    assert "keeps no log" in call(peer, "logs", "boat").stderr
    assert call(peer, "rm", "boat").stdout == "boat\n"
    left = subprocess.run(["ctr", "snapshots", "ls"], env=peer.environment, check=True, capture_output=True, text=True)
    assert "Active" not in left.stdout


def test_what_it_does_not_offer_is_said(peer: Peer) -> None:
    done = call(peer, "pull", "busybox")
    assert done.returncode == 1
    assert done.stderr.startswith("moorage: ")
    assert "Traceback" not in done.stderr
