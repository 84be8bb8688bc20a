"""Volumes with the files of images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from support.cri import CriClient, container_config, pod_config
from support.daemon import Daemon
from support.images import ImageSpec, LayerBuilder, busybox_layer, push
from support.leftovers import mounts_below
from support.registry import Registry
from support.terminal import wait_until

MAPPING = [cri_pb2.IDMapping(container_id=0, host_id=300_000, length=65_536)]


@pytest.fixture
def data(cri: CriClient, registry: Registry) -> str:
    """An image of two layers, with a folder, a link in it, and a program."""
    layer = LayerBuilder().folder("models").folder("models/small").file("models/small/weights", b"1 2 3\n", 0o640)
    layer.symlink("models/latest", "/models/small").symlink("escape", "../../../../etc")
    push(registry.address, "test/data", "1", ImageSpec([busybox_layer(), layer.build()], {}))
    reference = f"{registry.address}/test/data:1"
    cri.PullImage(image={"image": reference})
    return reference


def volume(image: str, path: str = "/data", **fields: object) -> cri_pb2.Mount:
    values = {"container_path": path, "readonly": True, "image": cri_pb2.ImageSpec(image=image)} | fields
    return cri_pb2.Mount(**values)  # type: ignore[arg-type]


def places(daemon: Daemon) -> list[str]:
    return mounts_below(daemon.state / "io.containerd.grpc.v1.cri/image-volumes")


def snapshots(daemon: Daemon) -> list[str]:
    table = daemon.run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()[1:]
    return [line.split()[0] for line in table if line.split()[-1] != "Committed"]


def test_its_files_are_there_to_read_and_to_run(cri: CriClient, shared_daemon: Daemon, busybox: str, data: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    mounts = [
        volume(data),
        volume(data, "/small", image_sub_path="models/small"),
        volume(data, "/link", image_sub_path="models/latest"),
        volume(data, "/whole", image_sub_path=""),
    ]
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000", mounts=mounts))
    paths = ("/data/models/small/weights", "/small/weights", "/link/weights", "/whole/models/small/weights")
    assert cri.execute(container, "cat", *paths).stdout == b"1 2 3\n" * 4
    assert cri.execute(container, "/data/bin/busybox", "echo", "runs").stdout == b"runs\n"
    for path in ("/data/x", "/small/x", "/data/models/x"):
        assert b"Read-only" in cri.execute(container, "touch", path).stderr
    image = cri.ImageStatus(image={"image": data}).image
    assert {mount.image.image_ref for mount in cri.status(container).mounts} == {image.id}
    assert {mount.host_path for mount in cri.status(container).mounts} == {""}
    cri.remove(container)
    assert places(shared_daemon) == []
    assert snapshots(shared_daemon) == []


def test_it_outlives_its_image_and_the_daemon(cri: CriClient, shared_daemon: Daemon, busybox: str, data: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    container = cri.create(pod, config, container_config(busybox, "sleep", "1000", mounts=[volume(data)]))
    cri.RemoveImage(image={"image": data})
    shared_daemon.restart()
    cri.wait_ready()
    cri.StartContainer(container_id=container)
    assert cri.execute(container, "cat", "/data/models/small/weights").stdout == b"1 2 3\n"
    cri.remove_pod(pod)
    assert places(shared_daemon) == []
    assert snapshots(shared_daemon) == []


@pytest.mark.parametrize("layers", [1, 2])
def test_in_a_user_namespace_it_belongs_to_the_pod_s_root(
    cri: CriClient, shared_daemon: Daemon, busybox: str, data: str, layers: int
) -> None:
    own = cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=MAPPING, gids=MAPPING)
    config = pod_config()
    config.linux.security_context.namespace_options.userns_options.CopyFrom(own)
    pod = cri.run_pod(config)
    image, file = (data, "/data/models/small/weights") if layers == 2 else (busybox, "/data/etc/passwd")
    mounts = [volume(image, uidMappings=MAPPING, gidMappings=MAPPING)]
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000", mounts=mounts))
    assert cri.execute(container, "stat", "-c", "%u:%g", "/data", file).stdout.split() == [b"0:0"] * 2
    assert cri.execute(container, "cat", file).exit_code == 0
    cri.remove_pod(pod)
    assert places(shared_daemon) == []


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (volume("DATA", readonly=False), Code.INVALID_ARGUMENT, "readonly"),
        (volume("DATA", host_path="/tmp"), Code.INVALID_ARGUMENT, "host_path"),
        (volume(""), Code.INVALID_ARGUMENT, "not named"),
        (volume("DATA", image_sub_path="../etc"), Code.INVALID_ARGUMENT, "not a path"),
        (volume("DATA", image_sub_path="/etc"), Code.INVALID_ARGUMENT, "not a path"),
        (volume("DATA", propagation=cri_pb2.PROPAGATION_BIDIRECTIONAL), Code.INVALID_ARGUMENT, "propagation"),
        (volume("DATA", image_sub_path="nothing/here"), Code.NOT_FOUND, "ImageVolumeMountFailed"),
        (volume("DATA", image_sub_path="models/small/weights"), Code.NOT_FOUND, "no folder"),
        (volume("no/such:image"), Code.NOT_FOUND, "ImageVolumeMountFailed"),
    ],
)
def test_what_cannot_be_leaves_nothing(
    cri: CriClient, shared_daemon: Daemon, busybox: str, data: str, wanted: cri_pb2.Mount, code: Code, words: str
) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    wanted.image.image = wanted.image.image.replace("DATA", data)
    mounts = [volume(data, "/good"), wanted]
    with pytest.raises(MoorageError, match=words) as caught:
        cri.create(pod, config, container_config(busybox, "true", mounts=mounts))
    assert caught.value.code is code
    assert places(shared_daemon) == []
    assert snapshots(shared_daemon) == []


def test_a_link_does_not_lead_out_of_the_image(cri: CriClient, busybox: str, data: str, tmp_path: Path) -> None:
    """The link of the image ends at its own root, however many folders it goes up."""
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    mounts = [volume(data, image_sub_path="escape")]
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000", mounts=mounts))
    inside = cri.execute(container, "cat", "/data/passwd").stdout
    assert inside != Path("/etc/passwd").read_bytes()
    assert b"www-data" in inside


def test_what_an_interrupted_call_left_goes_at_the_next_start(
    cri: CriClient, shared_daemon: Daemon, busybox: str
) -> None:
    folder = shared_daemon.state / "io.containerd.grpc.v1.cri/image-volumes/unknown/0"
    shared_daemon.kill()
    folder.mkdir(parents=True)
    (shared_daemon.root / "io.containerd.grpc.v1.cri/containers/unknown").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    shared_daemon.start()
    cri.wait_ready()
    wait_until(lambda: not folder.parent.exists(), "the mount is gone")
    assert places(shared_daemon) == []
