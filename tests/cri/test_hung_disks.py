"""Mounts and disks that hang: who asks about pods and containers is answered from memory, and does not notice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import DeadlineExceeded, Unavailable
from moorage_api.wire import cri_pb2
from support import powercut
from support.cri import CriClient, container_config, pod_config, until
from support.daemon import Daemon
from support.hungdisk import frozen_disk, hung_folder

# Far more than an answer takes, and less than what hangs.
_PROMPT = 30


def _check_lists(cri: CriClient, pod: str, containers: set[str]) -> None:
    """All that a kubelet asks again and again."""
    assert {each.id for each in cri.ListContainers(deadline=_PROMPT).containers} == containers
    assert [each.id for each in cri.ListPodSandbox(deadline=_PROMPT).items] == [pod]
    assert cri.PodSandboxStatus(pod_sandbox_id=pod, deadline=_PROMPT).status.state == cri_pb2.SANDBOX_READY
    for container in containers:
        assert cri.ContainerStatus(container_id=container, deadline=_PROMPT).status.id == container
    assert len(cri.ListImages(deadline=_PROMPT).images) == 1
    assert cri.Status(deadline=_PROMPT).status.conditions[0].status


def _layer(daemon: Daemon, marker: str) -> Path:
    """The files of the writable snapshot in which a container has made `marker`."""
    return next((daemon.root / "io.containerd.snapshotter.v1.overlayfs/snapshots").glob(f"*/fs/{marker}")).parent


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no FUSE")
def test_a_mount_that_hangs_is_one_container_s_trouble(
    cri: CriClient, shared_daemon: Daemon, busybox: str, tmp_path: Path
) -> None:
    config = pod_config(network=cri_pb2.NODE)
    pod = cri.run_pod(config)
    healthy = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    with hung_folder(tmp_path / "volume") as volume:
        mount = cri_pb2.Mount(host_path=str(volume.path), container_path="/volume")
        script = "touch /stuck; exec sleep 1000"
        wanted = container_config(busybox, "sh", "-c", script, name="stuck", mounts=[mount])
        stuck = cri.start(pod, config, wanted)
        until(lambda: cri.execute(stuck, "ls", "/stuck", "/volume").exit_code == 0)
        with hung_folder(_layer(shared_daemon, "stuck") / "hung") as layer:
            volume.hang()
            layer.hang()
            with pytest.raises(DeadlineExceeded):
                cri.ExecSync(container_id=stuck, cmd=["ls", "/volume"], deadline=1)
            room = cri.ImageFsInfo.begin(deadline=_PROMPT)
            _check_lists(cri, pod, {healthy, stuck})
            for _ in range(2):
                stats = {each.attributes.id: each for each in cri.ListContainerStats(deadline=_PROMPT).stats}
                assert stats[healthy].HasField("writable_layer")
                # All is known of the other but what the disk would have to tell.
                assert stats[stuck].HasField("cpu")
                assert not stats[stuck].HasField("writable_layer")
            with pytest.raises(Unavailable, match="could not be measured"):
                room.result()
            # One that comes later is measured, too.
            other = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="other"))
            assert cri.ContainerStats(container_id=other, deadline=_PROMPT).stats.HasField("writable_layer")
            assert cri.execute(other, "echo", "well").stdout == b"well\n"
        (layer.path).rmdir()
    until(lambda: cri.ContainerStats(container_id=stuck).stats.HasField("writable_layer"))
    assert cri.ImageFsInfo(deadline=_PROMPT).image_filesystems[0].used_bytes.value > 0


@pytest.fixture
def on_a_disk(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose root is a disk of its own."""
    disk = powercut.Disk(tmp_path / "image")
    disk.make()
    with disk.mounted(tmp_path / "disk"):
        daemon = Daemon()
        daemon.root = tmp_path / "disk/root"
        with daemon:
            yield daemon


@pytest.mark.skipif(bool(powercut.available()), reason=powercut.available())
def test_a_disk_that_hangs_delays_only_what_is_written(on_a_disk: Daemon, busybox: str) -> None:
    with CriClient(on_a_disk.address) as cri:
        cri.pull(busybox)
        config = pod_config()
        pod = cri.run_pod(config)
        running = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
        created = cri.create(pod, config, container_config(busybox, "sleep", "1000", name="created"))
        with frozen_disk(on_a_disk.root):
            making = cri.RunPodSandbox.begin(config=pod_config())
            starting = cri.StartContainer.begin(container_id=created)
            another, late = (container_config(busybox, "sleep", "1000", name=name) for name in ("another", "late"))
            creating = cri.CreateContainer.begin(pod_sandbox_id=pod, config=another, sandbox_config=config)
            with pytest.raises(DeadlineExceeded):
                cri.CreateContainer(pod_sandbox_id=pod, config=late, sandbox_config=config, deadline=1)
            for _ in range(2):
                _check_lists(cri, pod, {running, created})
            assert len(cri.ListContainerStats(deadline=_PROMPT).stats) >= 1
        assert making.result().pod_sandbox_id
        assert creating.result().container_id
        starting.result()
        assert cri.status(created).state == cri_pb2.CONTAINER_RUNNING
        cri.remove_all()
