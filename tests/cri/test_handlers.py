"""Runtime handlers: what Status tells of them, their snapshotters, and pulls for them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from moorage_api.wire.runc_options_pb2 import Options
from moorage_cri.config import RuntimeHandler, RuntimeOptions
from moorage_cri.sandbox.spec import ALLOWED_SYSCTLS
from support.cri import CriClient, configured, container_config, pod_config
from support.daemon import Daemon
from support.terminal import wait_until

TABLE = '[plugins."io.containerd.grpc.v1.cri".runtimes'
HANDLERS = f"""
{TABLE}.default]
{TABLE}.copied]
snapshotter = "native"
{TABLE}.foreign]
runtime_type = "io.containerd.absent.v1"
"""


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    with configured("image_pull_progress_timeout = 1.0", HANDLERS) as running:
        yield running


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


def _snapshots(daemon: Daemon, snapshotter: str) -> int:
    return len(daemon.run("ctr", "-n", "k8s.io", "snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:])


def test_an_image_is_pulled_for_a_handler(cri: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    cri.RemoveImage(image={"image": busybox})
    wait_until(lambda: _snapshots(shared_daemon, "overlayfs") == 0, "the image is collected")
    cri.PullImage(image={"image": busybox, "runtime_handler": "copied"})
    assert (_snapshots(shared_daemon, "native"), _snapshots(shared_daemon, "overlayfs")) == (1, 0)
    config = pod_config(network=cri_pb2.NODE)
    for handler in ("copied", "default"):
        pod = cri.run_pod(config, handler)
        container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
        assert cri.execute(container, "true").exit_code == 0
        cri.remove_pod(pod)
    assert _code(lambda: cri.PullImage(image={"image": busybox, "runtime_handler": "none"})) is Code.NOT_FOUND


def test_status_tells_what_is_possible(cri: CriClient) -> None:
    status = cri.Status(verbose=True)
    features = {handler.name: handler.features for handler in status.runtime_handlers}
    assert all(features[name].recursive_read_only_mounts for name in ("", "default", "copied"))
    assert not features["foreign"].recursive_read_only_mounts
    assert not features["foreign"].user_namespaces
    assert status.features.supplemental_groups_policy
    assert status.features.user_namespaces_host_network
    assert json.loads(status.info["allowedSysctls"]) == list(ALLOWED_SYSCTLS)


def test_a_handler_without_user_namespaces_refuses_them(cri: CriClient) -> None:
    config = pod_config()
    mapping = [cri_pb2.IDMapping(host_id=100_000, length=65_536)]
    own = cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=mapping, gids=mapping)
    config.linux.security_context.namespace_options.userns_options.CopyFrom(own)
    assert _code(lambda: cri.run_pod(config, "foreign")) is Code.FAILED_PRECONDITION
    assert list(cri.ListPodSandbox().items) == []


def test_a_pull_without_progress_is_given_up(cri: CriClient) -> None:
    """The registry takes connections and requests, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        taker = threading.Thread(target=take)
        taker.start()
        address = "{}:{}".format(*server.getsockname())
        assert _code(lambda: cri.PullImage(image={"image": f"{address}/silent/image:1"})) is Code.DEADLINE_EXCEEDED
        assert taken
        server.shutdown(socket.SHUT_RDWR)
        taker.join()
        for connection in taken:
            connection.close()
    assert [image for image in cri.ListImages().images if any("silent" in tag for tag in image.repo_tags)] == []


@pytest.mark.parametrize("configured", [True, False])
def test_the_name_of_the_parent_says_who_makes_control_groups(configured: bool) -> None:
    handler = RuntimeHandler(options=RuntimeOptions(binary_name="x", systemd_cgroup=configured))
    for wanted in (True, False):
        options = handler.runtime(systemd_cgroup=wanted).options
        assert options is not None
        assert Options.FromString(options.value).systemd_cgroup is wanted


def test_a_slice_is_named_as_systemd_wants_it(cri: CriClient, busybox: str) -> None:
    config = pod_config(network=cri_pb2.NODE)
    config.linux.cgroup_parent = "kubepods-besteffort.slice"
    pod = cri.run_pod(config)
    container = cri.create(pod, config, container_config(busybox, "sleep", "1000"))
    spec = json.loads(cri.ContainerStatus(container_id=container, verbose=True).info["info"])["runtimeSpec"]
    assert spec["linux"]["cgroupsPath"] == f"kubepods-besteffort.slice:cri-containerd:{container}"
