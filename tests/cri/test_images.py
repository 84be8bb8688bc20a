"""The image service, on a running daemon with a real registry."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.images import push
from support.registry import Registry


@pytest.fixture
def images(shared_daemon: Daemon) -> Iterator[CriClient]:
    """A client of the module's daemon, which has no image."""
    with CriClient(shared_daemon.address) as client:
        yield client
        client.remove_all()
        for image in client.ListImages().images:
            client.RemoveImage(image={"image": image.id})


def _pull(client: CriClient, reference: str, **fields: object) -> str:
    id: str = client.PullImage(image={"image": reference}, **fields).image_ref
    return id


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


def test_an_image_s_life(images: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    assert list(images.ListImages().images) == []
    assert not images.ImageStatus(image={"image": busybox}).HasField("image")
    id = _pull(images, busybox)
    assert id.startswith("sha256:")
    image = images.ImageStatus(image={"image": busybox}).image
    repository = busybox.removesuffix(":latest")
    assert image.id == id
    assert list(image.repo_tags) == [busybox]
    assert len(image.repo_digests) == 1
    assert image.repo_digests[0].startswith(f"{repository}@sha256:")
    assert image.size > 100_000
    assert not image.pinned
    for name in (id, id.removeprefix("sha256:"), id[7:19], repository, image.repo_digests[0]):
        assert images.ImageStatus(image={"image": name}).image.id == id, name
        assert [found.id for found in images.ListImages(filter={"image": {"image": name}}).images] == [id]
    listed = shared_daemon.run("ctr", "-n", "k8s.io", "images", "ls", "-q").split()
    assert sorted(listed) == sorted([busybox, image.repo_digests[0], id])
    assert shared_daemon.run("ctr", "-n", "default", "images", "ls", "-q") == ""
    images.RemoveImage(image={"image": id})
    images.RemoveImage(image={"image": id})
    assert list(images.ListImages().images) == []
    assert shared_daemon.run("ctr", "-n", "k8s.io", "images", "ls", "-q") == ""


def test_nothing_of_a_removed_image_stays(images: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    _pull(images, busybox)
    images.RemoveImage(image={"image": busybox})
    _until(lambda: shared_daemon.run("ctr", "-n", "k8s.io", "content", "ls", "-q") == "")
    _until(lambda: len(shared_daemon.run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()) == 1)


def test_a_removed_image_s_container_runs_on(images: CriClient, busybox: str) -> None:
    id = _pull(images, busybox)
    config = pod_config(network=cri_pb2.NODE)
    container = images.start(images.run_pod(config), config, container_config(busybox, "sleep", "1000"))
    images.RemoveImage(image={"image": busybox})
    time.sleep(0.5)
    assert images.execute(container, "ls", "/bin/busybox").exit_code == 0
    status = images.status(container)
    assert (status.image_id, status.image_ref, status.image.image) == (id, id, busybox)


def test_two_tags_are_one_image(images: CriClient, registry: Registry, busybox: str) -> None:
    push(registry.address, "library/busybox", "other")
    other = busybox.replace(":latest", ":other")
    assert _pull(images, busybox) == _pull(images, other)
    (image,) = images.ListImages().images
    assert list(image.repo_tags) == [busybox, other]
    digest = image.repo_digests[0]
    images.RemoveImage(image={"image": other})
    assert list(images.ListImages().images) == []
    assert _pull(images, digest) == image.id
    (image,) = images.ListImages().images
    assert (list(image.repo_tags), list(image.repo_digests)) == ([], [digest])


def test_what_another_client_does_is_seen(images: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    ctr = ("ctr", "-n", "k8s.io", "images")
    shared_daemon.run(*ctr, "pull", "--plain-http", busybox)
    _until(lambda: [list(image.repo_tags) for image in images.ListImages().images] == [[busybox]])
    shared_daemon.run(*ctr, "label", busybox, "io.cri-containerd.pinned=pinned")
    _until(lambda: images.ListImages().images[0].pinned)
    shared_daemon.run(*ctr, "rm", busybox)
    _until(lambda: list(images.ListImages().images) == [])


def test_an_image_is_unpacked_when_it_is_needed(images: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    # While the blobs of an image that was removed before are there, so is what they refer to.
    _until(lambda: shared_daemon.run("ctr", "-n", "k8s.io", "content", "ls", "-q") == "")
    shared_daemon.run("ctr", "-n", "k8s.io", "content", "fetch", "--plain-http", busybox)
    _until(lambda: len(images.ListImages().images) == 1)
    assert shared_daemon.run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()[1:] == []
    config = pod_config(network=cri_pb2.NODE)
    container = images.start(images.run_pod(config), config, container_config(busybox, "sleep", "1000"))
    assert images.execute(container, "true").exit_code == 0


def test_a_pinned_image(registry: Registry, busybox: str) -> None:
    with Daemon() as daemon:
        text = daemon.config_file.read_text()
        key = '[plugins."io.containerd.grpc.v1.cri"]\n'
        assert key in text
        daemon.config_file.write_text(text.replace(key, f'{key}pinned_images = ["{busybox}"]\n'))
        daemon.restart()
        with CriClient(daemon.address) as client:
            _pull(client, busybox)
            assert client.ImageStatus(image={"image": busybox}).image.pinned


def test_sizes_come_from_the_snapshots(images: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    _pull(images, busybox)
    info = images.ImageFsInfo()
    (usage,) = info.image_filesystems
    root = Path(usage.fs_id.mountpoint)
    assert root == shared_daemon.root / "io.containerd.snapshotter.v1.overlayfs"
    snapshots = subprocess.run(["du", "-s", "-B1", root / "snapshots"], capture_output=True, text=True, check=True)
    # A second call answers from the first one's measurement.
    assert images.ImageFsInfo() == info
    assert usage.used_bytes.value == pytest.approx(int(snapshots.stdout.split()[0]), rel=0.05)
    assert usage.inodes_used.value > 0
    assert usage.timestamp <= time.time_ns()


def test_verbose_status_has_the_configuration(images: CriClient, busybox: str) -> None:
    _pull(images, busybox)
    info = images.ImageStatus(image={"image": busybox}, verbose=True).info["info"]
    assert "chainID" in info
    assert "imageSpec" in info


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("", Code.INVALID_ARGUMENT),
        ("lower/UPPER", Code.INVALID_ARGUMENT),
        ("127.0.0.1:1/nothing/here:x", Code.UNAVAILABLE),
        ("REGISTRY/no/such:x", Code.NOT_FOUND),
    ],
)
def test_a_pull_that_fails_says_why(images: CriClient, registry: Registry, reference: str, code: Code) -> None:
    assert _code(lambda: _pull(images, reference.replace("REGISTRY", registry.address))) is code
    assert list(images.ListImages().images) == []


def test_malformed_credentials_are_refused(images: CriClient, busybox: str) -> None:
    broken = {"auth": base64.b64encode(b"no colon").decode()}
    assert _code(lambda: _pull(images, busybox, auth=broken)) is Code.INVALID_ARGUMENT
    assert _pull(images, busybox, auth={"username": "u", "password": "p"})


@pytest.mark.parametrize("name", ["", "UPPER", "a b"])
def test_a_malformed_name_is_refused(images: CriClient, name: str) -> None:
    assert _code(lambda: images.ImageStatus(image={"image": name})) is Code.INVALID_ARGUMENT
    assert _code(lambda: images.RemoveImage(image={"image": name})) is Code.INVALID_ARGUMENT


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
