"""Pods with a user namespace of their own, with both OCI runtimes."""

from __future__ import annotations

import os
from collections.abc import Iterator
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

HOST = 200_000
SIZE = 65_536
MAPPING = [cri_pb2.IDMapping(container_id=0, host_id=HOST, length=SIZE)]
OWN = cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=MAPPING, gids=MAPPING)


def mapped_pod(own: cri_pb2.UserNamespace = OWN, **fields: object) -> cri_pb2.PodSandboxConfig:
    config = pod_config(**fields)  # type: ignore[arg-type]
    config.linux.security_context.namespace_options.userns_options.CopyFrom(own)
    return config


HANDLERS = """
[plugins."io.containerd.grpc.v1.cri".runtimes.default]
[plugins."io.containerd.grpc.v1.cri".runtimes.crun.options]
BinaryName = "crun"
[plugins."io.containerd.grpc.v1.cri".runtimes.runc.options]
BinaryName = "runc"
[plugins."io.containerd.grpc.v1.cri".runtimes.copied]
snapshotter = "native"
"""


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    running = Daemon(HANDLERS)
    # As /run is: the root of a pod has to reach its root file system.
    running.folder.chmod(0o711)
    with running:
        yield running


@pytest.fixture(params=["crun", "runc"])
def handler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_root_in_the_pod_is_nobody_on_the_host(
    cri: CriClient, shared_daemon: Daemon, busybox: str, logs: Path, handler: str
) -> None:
    config = mapped_pod(log_directory=logs, hostname="mapped")
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    pod = cri.run_pod(config, handler)
    address = cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip
    assert address.startswith(shared_daemon.network.subnet.rpartition(".")[0])
    script = "cat /proc/self/uid_map /proc/self/gid_map; echo again > /dev/stdout; sleep 1000"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", script, log_path="0.log"))

    def run(script: str) -> str:
        answer = cri.execute(container, "sh", "-c", script)
        return (answer.stdout + answer.stderr).decode()

    process = os.stat(f"/proc/{_pid(shared_daemon, container)}")
    assert (process.st_uid, process.st_gid) == (HOST, HOST)
    assert run("id -u; stat -c '%u:%g' / /bin/busybox /etc/passwd /etc/hosts").split() == ["0", *["0:0"] * 4]
    assert run("touch /new /bin/new && chown 33:33 /new && stat -c '%u:%g' /new /bin/new").split() == ["33:33", "0:0"]
    assert run("hostname; cat /etc/hostname; cat /proc/sys/kernel/shm_rmid_forced").split() == ["mapped", "mapped", "1"]
    assert "127.0.0.1" in run("cat /etc/hosts; cat /etc/resolv.conf >&2")
    assert "inet " + address in run("ip addr show eth0")
    assert run("ping -c 1 -W 2 127.0.0.1 >/dev/null; echo $?") == "0\n"
    assert run("echo x > /dev/shm/x && ls /sys/class/net /dev/mqueue && echo > /dev/null; echo $?").endswith("0\n")
    assert run("echo 5 > /proc/sys/kernel/sysrq; cat /proc/1/environ > /dev/null && echo seen").count("seen") == 1
    lines = [line.split(" ", 3)[3].split() for line in (logs / "0.log").read_text().splitlines()]
    assert lines == [["0", str(HOST), str(SIZE)]] * 2 + [["again"]]
    cri.stop(container)
    cri.remove_pod(pod)
    assert mounts_below(shared_daemon.state / "io.containerd.runtime.v2.task") == []


def _pid(daemon: Daemon, container: str) -> int:
    table = daemon.run("ctr", "-n", "k8s.io", "tasks", "ls").splitlines()[1:]
    return next(int(line.split()[1]) for line in table if line.split()[0] == container)


def test_containers_of_the_pod_share_its_namespaces(cri: CriClient, busybox: str, handler: str) -> None:
    config = mapped_pod(pid=cri_pb2.POD)
    pod = cri.run_pod(config, handler)
    one = cri.start(pod, config, container_config(busybox, "sleep", "1234", name="one", pid=cri_pb2.POD))
    two = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="two", pid=cri_pb2.POD))
    assert b"sleep 1234" in cri.execute(two, "ps").stdout
    kinds = [f"/proc/self/ns/{name}" for name in ("user", "net", "ipc", "uts", "pid")]
    namespaces = [cri.execute(container, "readlink", *kinds).stdout for container in (one, two)]
    assert namespaces[0] == namespaces[1]
    own = [os.readlink(kind).encode() for kind in kinds]
    assert not set(namespaces[0].split()) & set(own)
    assert cri.execute(two, "sh", "-c", "kill -9 $(ps | awk '/sleep 1234/ && !/awk/ {print $1}')").exit_code == 0


def test_a_user_of_the_image(cri: CriClient, busybox: str, handler: str) -> None:
    config = mapped_pod()
    pod = cri.run_pod(config, handler)
    security = cri_pb2.LinuxContainerSecurityContext(run_as_username="www-data", supplemental_groups=[7])
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000", security=security))
    assert cri.execute(container, "id").stdout.startswith(b"uid=33(www-data) gid=33(www-data) groups=7,33(www-data)")


def test_volumes_show_the_ids_of_the_container(
    cri: CriClient, registry: Registry, tmp_path: Path, handler: str
) -> None:
    """A folder of the host with a mapping, one file, a folder without a mapping, and a volume of the image."""
    layer = LayerBuilder().folder("data").file("data/file", b"from the image\n", 0o640)
    spec = ImageSpec([busybox_layer(), layer.build()], {"Volumes": {"/data": {}}})
    push(registry.address, "test/volumes", "1", spec)
    image = f"{registry.address}/test/volumes:1"
    cri.PullImage(image={"image": image})
    for name in ("mapped", "plain"):
        (tmp_path / name).mkdir(mode=0o755)
        (tmp_path / name / "file").write_text("kept")
    (tmp_path / "single").write_text("one")
    for name, id in (("mapped", 33), ("mapped/file", 33), ("single", 0), ("plain", HOST + 5)):
        os.chown(tmp_path / name, id, id)
    mapped = {"uidMappings": MAPPING, "gidMappings": MAPPING}
    mounts = [
        cri_pb2.Mount(container_path="/mapped", host_path=str(tmp_path / "mapped"), **mapped),
        cri_pb2.Mount(container_path="/ro", host_path=str(tmp_path / "mapped"), readonly=True, **mapped),
        cri_pb2.Mount(container_path="/single", host_path=str(tmp_path / "single"), **mapped),
        cri_pb2.Mount(container_path="/plain", host_path=str(tmp_path / "plain")),
    ]
    config = mapped_pod()
    pod = cri.run_pod(config, handler)
    container = cri.start(pod, config, container_config(image, "sleep", "1000", mounts=mounts))
    paths = ("/mapped", "/mapped/file", "/ro/file", "/single", "/plain", "/plain/file", "/data", "/data/file")
    found = cri.execute(container, "stat", "-c", "%u", *paths).stdout.split()
    assert found == [b"33", b"33", b"33", b"0", b"5", b"65534", b"0", b"0"]
    assert cri.execute(container, "sh", "-c", "echo y > /mapped/new && cat /data/file").stdout == b"from the image\n"
    assert cri.execute(container, "touch", "/ro/x").exit_code != 0
    assert (tmp_path / "mapped/new").stat().st_uid == 0
    assert [list(mount.uidMappings) for mount in cri.status(container).mounts][:1] == [MAPPING]


def test_a_restart_of_the_daemon(cri: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    """The pod goes on, and its network is taken down from what the shim pinned."""
    config = mapped_pod()
    pod = cri.run_pod(config)
    shared_daemon.restart()
    cri.wait_ready()
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    assert cri.execute(container, "id", "-u").stdout == b"0\n"
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    leases = shared_daemon.folder / "cni/ipam" / shared_daemon.network.bridge
    assert [path.name for path in leases.glob("10.*")] == []


def test_the_host_s_network(cri: CriClient, busybox: str, handler: str) -> None:
    config = mapped_pod(network=cri_pb2.NODE)
    pod = cri.run_pod(config, handler)
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    assert cri.execute(container, "ls", "/sys/class/net/lo/mtu").exit_code == 0
    assert cri.execute(container, "readlink", "/proc/self/ns/net").stdout.decode().strip() == os.readlink(
        "/proc/self/ns/net"
    )


def _two() -> cri_pb2.UserNamespace:
    other = cri_pb2.IDMapping(container_id=SIZE, host_id=HOST + SIZE, length=1)
    return cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=[*MAPPING, other], gids=MAPPING)


def _odd(**fields: int) -> cri_pb2.UserNamespace:
    values = {"container_id": 0, "host_id": HOST, "length": SIZE} | fields
    mapping = [cri_pb2.IDMapping(**values)]
    return cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=mapping, gids=mapping)


@pytest.mark.parametrize(
    "own",
    [
        cri_pb2.UserNamespace(mode=cri_pb2.POD),
        cri_pb2.UserNamespace(mode=cri_pb2.POD, uids=MAPPING),
        cri_pb2.UserNamespace(mode=cri_pb2.NODE, uids=MAPPING, gids=MAPPING),
        cri_pb2.UserNamespace(mode=cri_pb2.CONTAINER, uids=MAPPING, gids=MAPPING),
        cri_pb2.UserNamespace(mode=cri_pb2.TARGET),
        _two(),
        _odd(container_id=1),
        _odd(length=0),
        _odd(host_id=2**32 - 5),
    ],
)
def test_namespaces_that_cannot_be(cri: CriClient, own: cri_pb2.UserNamespace) -> None:
    with pytest.raises(MoorageError) as caught:
        cri.run_pod(mapped_pod(own))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert list(cri.ListPodSandbox().items) == []


def test_the_host_s_pids_are_not_for_a_user_namespace(cri: CriClient) -> None:
    with pytest.raises(MoorageError, match="PID namespace"):
        cri.run_pod(mapped_pod(pid=cri_pb2.NODE))


def test_a_container_cannot_ask_for_another_namespace(cri: CriClient, busybox: str) -> None:
    config = mapped_pod()
    pod = cri.run_pod(config)
    wrong = container_config(busybox, "true")
    wrong.linux.security_context.namespace_options.userns_options.CopyFrom(_odd(length=5))
    with pytest.raises(MoorageError, match="not the pod's"):
        cri.create(pod, config, wrong)
    wrong.linux.security_context.namespace_options.userns_options.CopyFrom(OWN)
    cri.create(pod, config, wrong)


def test_status_tells_of_them(cri: CriClient) -> None:
    handlers = {handler.name: handler.features for handler in cri.Status().runtime_handlers}
    assert set(handlers) >= {"", "crun", "runc", "copied"}
    assert all(features.user_namespaces for features in handlers.values())


def test_a_snapshotter_that_copies(cri: CriClient, shared_daemon: Daemon, busybox: str) -> None:
    config = mapped_pod()
    pod = cri.run_pod(config, "copied")
    container = cri.start(pod, config, container_config(busybox, "sleep", "1000"))
    script = "touch /new; chown 7 /new; stat -c %u /new /bin/busybox"
    assert cri.execute(container, "sh", "-c", script).stdout.split() == [b"7", b"0"]


def test_terminals_and_standard_input(cri: CriClient, busybox: str, logs: Path, handler: str) -> None:
    config = mapped_pod(log_directory=logs)
    pod = cri.run_pod(config, handler)
    script = "tty; stat -c %u $(tty); read line; echo got $line"
    wanted = container_config(busybox, "sh", "-c", script, log_path="0.log", tty=True, stdin=True)
    container = cri.start(pod, config, wanted)
    wait_until(lambda: (logs / "0.log").read_text().count("\n") >= 2, "it waits for a line, which the terminal echoes")
    with cri.attach(container, stdin=True, tty=True) as attached:
        attached.write(b"it\n")
        wait_until(lambda: "got it" in (logs / "0.log").read_text(), "the line came through")
    lines = [line.split(" ", 3)[3].strip() for line in (logs / "0.log").read_text().splitlines()]
    assert lines[:2] == ["/dev/pts/0", "0"]
    other = cri.start(pod, config, container_config(busybox, "sleep", "1000", name="other"))
    with cri.exec(other, "sh", "-c", "tty; id -u; echo again > /dev/stdout", tty=True) as process:
        output = process.communicate().stdout.decode().split()
    assert output == ["/dev/pts/0", "0", "again"]
    assert cri.execute(other, "sh", "-c", "echo x > /dev/stdout; echo y > /dev/stderr").stdout == b"x\n"


def test_a_port_of_the_pod(cri: CriClient, busybox: str) -> None:
    config = mapped_pod()
    pod = cri.run_pod(config)
    command = "mkdir /www; echo reached > /www/index.html; exec httpd -f -p 80 -h /www"
    container = cri.start(pod, config, container_config(busybox, "sh", "-c", command))
    assert cri.execute(container, "sh", "-c", "until wget -qO- 127.0.0.1:80; do sleep 0.05; done").exit_code == 0
    with cri.port_forward(pod, 80) as connection:
        connection.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b"".join(iter(connection.read, b"")).endswith(b"reached\n")
    stats = cri.PodSandboxStats(pod_sandbox_id=pod).stats.linux
    assert stats.network.default_interface.rx_bytes.value > 0
