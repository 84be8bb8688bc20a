"""Layers as EROFS images, with every kind of client: pulled, run, committed, collected."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.linux.mount import mountinfo
from support.cri import CriClient, container_config, pod_config
from support.ctr import Ctr
from support.daemon import Daemon

URI = "io.containerd.snapshotter.v1.erofs"
SH = ("sh", "-c", "grep -q root /etc/passwd && echo hi > /new && rm /bin/cat && test ! -e /bin/cat && echo gone")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    text = daemon.config_file.read_text()
    cri = '[plugins."io.containerd.grpc.v1.cri"]\n'
    daemon.config_file.write_text(text.replace(cri, f'{cri}snapshotter = "erofs"\n'))
    with daemon:
        yield daemon


def snapshots(daemon: Daemon) -> Path:
    return daemon.root / URI / "snapshots"


def images(daemon: Daemon) -> set[Path]:
    return set(snapshots(daemon).glob("*/layer.erofs"))


def mounted(daemon: Daemon) -> list[str]:
    return [entry.target for entry in mountinfo() if entry.type == "erofs" and str(daemon.root) in entry.target]


def holds_archive(image: Path) -> bool:
    """Whether the differ wrote it: then the layer's tar archive is the data of the image."""
    with open(image, "rb") as file:
        file.seek(4096 + 257)
        return file.read(5) == b"ustar"


def test_moorage_run(daemon: Daemon, busybox: str) -> None:
    before = images(daemon)
    assert daemon.run("moorage", "run", "--rm", "--snapshotter", "erofs", busybox, *SH) == "gone\n"
    [image] = images(daemon) - before
    assert sorted(path.name for path in image.parent.iterdir()) == ["layer", "layer.erofs"], "one file holds the layer"
    assert holds_archive(image)
    assert str(image.parent / "layer") in mounted(daemon)


def test_ctr_unpacks_by_the_service(daemon: Daemon, busybox: str) -> None:
    """ctr unpacks itself: it prepares, has the layer applied through the diff service, and commits."""
    ctr = Ctr(daemon, "by-ctr")
    before = images(daemon)
    ctr("images", "pull", "--plain-http", "--snapshotter", "erofs", busybox)
    [image] = images(daemon) - before
    assert holds_archive(image)
    done = ctr.once("--snapshotter", "erofs", busybox, "box", *SH)
    assert done.stdout == "gone\n", done.stderr
    usage = ctr("snapshots", "--snapshotter", "erofs", "usage", "-b").splitlines()[-1].split()
    assert int(usage[-2]) == image.stat().st_blocks * 512
    ctr("images", "rm", "--sync", busybox)
    assert not image.exists()
    assert str(image.parent / "layer") not in mounted(daemon)


def test_a_pod(daemon: Daemon, busybox: str) -> None:
    with CriClient(daemon.address) as client:
        client.wait_ready()
        client.PullImage(image={"image": busybox})
        config = pod_config("erofs")
        pod = client.run_pod(config)
        container = client.start(pod, config, container_config(busybox, "sleep", "1000"))
        assert client.execute(container, *SH).stdout == b"gone\n"
        root = client.execute(container, "grep", " / ", "/proc/mounts").stdout.decode()
        assert root.startswith("overlay / overlay")
        assert client.execute(container, "stat", "-c", "%a %u", "/").stdout == b"755 0\n"
        client.remove_all()


def test_what_a_container_wrote_becomes_an_image(daemon: Daemon, busybox: str) -> None:
    """Committed as a snapshot, and seen by the next container; compared, as a layer of an image."""
    ctr = Ctr(daemon, "writes")
    ctr("images", "pull", "--plain-http", "--snapshotter", "erofs", busybox)
    script = "rm -r /var; mkdir /var; echo 1 > /var/a; ln /var/a /var/b; rm /bin/cat; chmod 1777 /home"
    ctr("run", "--fifo-dir", ctr.fifos, "--snapshotter", "erofs", busybox, "first", "sh", "-c", script)
    before = images(daemon)
    command = ["ctr", "-n", "writes", "snapshots", "--snapshotter", "erofs", "diff", "--keep", "first"]
    layer = subprocess.run(command, env=daemon.environment, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        names = {name.strip("/") for name in archive.getnames()}
    assert {"var/.wh..wh..opq", "var/a", "var/b", "bin/.wh.cat", "home"} <= names
    ctr("snapshots", "--snapshotter", "erofs", "commit", "written", "first")
    [image] = images(daemon) - before
    assert sorted(path.name for path in image.parent.iterdir()) == ["layer", "layer.erofs"]
    ctr("containers", "rm", "first")
    ctr("snapshots", "--snapshotter", "erofs", "prepare", "second", "written")
    shown = ctr("snapshots", "--snapshotter", "erofs", "mounts", str(daemon.folder / "here"), "second")
    [options] = [word for word in shown.split() if "lowerdir=" in word]
    assert f"lowerdir={image.parent}/layer:" in options
    layer_root = image.parent / "layer"
    assert (layer_root / "var/a").stat().st_ino == (layer_root / "var/b").stat().st_ino
    assert (layer_root / "home").stat().st_mode == stat.S_IFDIR | 0o1777
    assert (layer_root / "bin/cat").stat().st_rdev == 0
    assert os.getxattr(layer_root / "var", "trusted.overlay.opaque") == b"y"
    ctr("snapshots", "--snapshotter", "erofs", "rm", "second")


def test_restarts(daemon: Daemon, busybox: str) -> None:
    """Layers are unmounted when the daemon ends in order, and mounted again when they are wanted; a container stands."""
    name = daemon.run("moorage", "run", "-d", "--snapshotter", "erofs", busybox, "sleep", "1000").strip()
    daemon.stop()
    assert mounted(daemon) == []
    daemon.start()
    assert daemon.run("moorage", "exec", name, "cat", "/etc/passwd").startswith("root:")
    assert daemon.run("moorage", "run", "--rm", "--snapshotter", "erofs", busybox, *SH) == "gone\n"
    daemon.kill()
    daemon.start()
    assert daemon.run("moorage", "exec", name, "cat", "/etc/passwd").startswith("root:")
    assert daemon.run("moorage", "run", "--rm", "--snapshotter", "erofs", busybox, *SH) == "gone\n"
    daemon.run("moorage", "rm", "-f", name)
