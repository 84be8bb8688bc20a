"""Containers, on a running daemon."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage_api.errors import Code, MoorageError
from moorage_api.wire import cri_pb2
from moorage_cri.container.host import host
from support.cri import CriClient, container_config, pod_config, until
from support.daemon import Daemon
from support.images import ImageSpec, LayerBuilder, busybox_layer, push
from support.registry import Registry

Security = cri_pb2.LinuxContainerSecurityContext
Pod = tuple[str, cri_pb2.PodSandboxConfig]


@pytest.fixture
def pod(cri: CriClient, logs: Path) -> Pod:
    """A pod in the host's network, which is made the quickest."""
    config = pod_config(network=cri_pb2.NODE, log_directory=logs)
    return cri.run_pod(config), config


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(MoorageError) as caught:
        call()
    code: Code = caught.value.code
    return code


def _ended(cri: CriClient, container: str, seconds: float = 10) -> cri_pb2.ContainerStatus:
    deadline = time.monotonic() + seconds
    while (status := cri.status(container)).state != cri_pb2.CONTAINER_EXITED:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def _lines(path: Path) -> list[tuple[str, str]]:
    lines = path.read_bytes().decode().split("\n")
    return [(line.split(" ", 3)[1], line.split(" ", 3)[3]) for line in lines if line]


def test_a_container_s_life(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    config = container_config(busybox, "sh", "-c", "echo out; echo err >&2; exit 7", log_path="main/0.log")
    before = time.time_ns()
    container = cri.create(*pod, config)
    status = cri.status(container)
    assert status.state == cri_pb2.CONTAINER_CREATED
    assert status.created_at >= before
    assert (status.started_at, status.finished_at) == (0, 0)
    cri.StartContainer(container_id=container)
    status = _ended(cri, container)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert before < status.created_at < status.started_at < status.finished_at < time.time_ns()
    assert status.log_path == str(logs / "main/0.log")
    assert sorted(_lines(logs / "main/0.log")) == [("stderr", "err"), ("stdout", "out")]
    assert status.image.image == busybox
    assert status.image_ref.startswith(busybox.removesuffix(":latest") + "@sha256:")
    assert status.image_id.startswith("sha256:")
    assert _code(lambda: cri.StartContainer(container_id=container)) is Code.FAILED_PRECONDITION
    cri.RemoveContainer(container_id=container)
    cri.RemoveContainer(container_id=container)
    assert _code(lambda: cri.status(container)) is Code.NOT_FOUND


def test_success_is_called_completed(cri: CriClient, pod: Pod, busybox: str) -> None:
    status = _ended(cri, cri.start(*pod, container_config(busybox, "true")))
    assert (status.exit_code, status.reason) == (0, "Completed")


def test_a_command_that_is_not_there_is_a_start_error(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.create(*pod, container_config(busybox, "no-such-program"))
    with pytest.raises(MoorageError, match="no-such-program"):
        cri.StartContainer(container_id=container)
    status = cri.status(container)
    assert status.state == cri_pb2.CONTAINER_EXITED
    assert (status.exit_code, status.reason) == (128, "StartError")
    assert "no-such-program" in status.message
    cri.RemoveContainer(container_id=container)


def test_the_stop_signal_comes_first(cri: CriClient, pod: Pod, busybox: str) -> None:
    script = "trap 'exit 42' USR1; while :; do sleep 0.05; done"
    config = container_config(busybox, "sh", "-c", script, stop_signal=cri_pb2.SIGNAL_SIGUSR1)
    container = cri.start(*pod, config)
    assert cri.status(container).stop_signal == cri_pb2.SIGNAL_SIGUSR1
    cri.until_heeded(container, signal.SIGUSR1)
    cri.stop(container, 10)
    cri.stop(container, 10)
    assert cri.status(container).exit_code == 42


def test_after_the_grace_period_comes_sigkill(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
    cri.until_heeded(container, signal.SIGTERM)
    started = time.monotonic()
    cri.stop(container, 1)
    assert 0.9 < time.monotonic() - started < 4
    assert cri.status(container).exit_code == 128 + signal.SIGKILL


def test_a_second_stop_may_cut_the_grace_period_short(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
    cri.until_heeded(container, signal.SIGTERM)
    patient = threading.Thread(target=cri.stop, args=(container, 30))
    patient.start()
    started = time.monotonic()
    cri.stop(container, 0)
    patient.join()
    assert time.monotonic() - started < 4


def test_a_running_container_is_removed_by_force(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    pid = cri.pid(container)
    # Told to go on, what an OCI runtime made of the process is not the command at once.
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00")
    cri.RemoveContainer(container_id=container)
    assert not Path(f"/proc/{pid}").exists()


def test_the_whole_pod_goes_with_its_containers(cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str) -> None:
    for name in ("one", "two"):
        cri.start(*pod, container_config(busybox, "sleep", "1000", name=name))
    cri.create(*pod, container_config(busybox, "sleep", "1000", name="unstarted"))
    cri.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert list(cri.ListContainers().containers) == []
    assert "sleep" not in shared_daemon.run("ctr", "-n", "k8s.io", "tasks", "ls")
    snapshots = shared_daemon.run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()[1:]
    assert {line.split()[-1] for line in snapshots} == {"Committed"}
    assert shared_daemon.run("ctr", "-n", "k8s.io", "leases", "ls").splitlines()[1:] == []


def test_containers_look_familiar_to_ctr(cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", labels={"io.kubernetes.pod.name": "p"}))
    assert busybox in shared_daemon.run("ctr", "-n", "k8s.io", "containers", "ls")
    info = json.loads(shared_daemon.run("ctr", "-n", "k8s.io", "containers", "info", container))
    assert info["Labels"]["io.cri-containerd.kind"] == "container"
    assert info["Labels"]["io.kubernetes.pod.name"] == "p"
    assert info["SandboxID" if "SandboxID" in info else "ID"] in (pod[0], container)
    assert info["Spec"]["annotations"]["io.kubernetes.cri.sandbox-id"] == pod[0]
    assert container not in shared_daemon.run("ctr", "-n", "default", "containers", "ls")


def test_what_controls_the_daemon_is_no_label_of_a_pod_s(
    cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str
) -> None:
    labels = {
        "containerd.io/gc.root": "x",
        "moorage.io/name": "taken",
        "io.cri-containerd.kind": "sandbox",
        "long": "x" * 5000,
    }
    container = cri.create(*pod, container_config(busybox, "true", labels=labels))
    info = json.loads(shared_daemon.run("ctr", "-n", "k8s.io", "containers", "info", container))
    assert info["Labels"] == {"io.cri-containerd.kind": "container"}
    assert cri.status(container).labels == labels


def test_lists_are_filtered(cri: CriClient, pod: Pod, busybox: str) -> None:
    one = cri.create(*pod, container_config(busybox, "true", name="one", labels={"a": "1"}))
    two = cri.start(*pod, container_config(busybox, "sleep", "1000", name="two", labels={"a": "2"}))

    def ids(**wanted: object) -> set[str]:
        return {item.id for item in cri.ListContainers(filter=wanted).containers}

    assert ids() == ids(pod_sandbox_id=pod[0]) == ids(pod_sandbox_id=pod[0][:8]) == {one, two}
    assert ids(id=one[:10]) == {one}
    assert ids(pod_sandbox_id="ffff") == ids(id="ffff") == set()
    assert ids(label_selector={"a": "2"}) == ids(state={"state": cri_pb2.CONTAINER_RUNNING}) == {two}


def test_environment_folder_and_arguments(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    config = container_config(
        busybox,
        "sh",
        "-c",
        log_path="0.log",
        args=['echo "$A $B $(pwd) $0 $1"', "zero", "one"],
        envs=[cri_pb2.KeyValue(key="A", value=b"x=y"), cri_pb2.KeyValue(key="B", value="ü".encode())],
        working_dir="/made/when/missing",
    )
    _ended(cri, cri.start(*pod, config))
    assert _lines(logs / "0.log") == [("stdout", "x=y ü /made/when/missing zero one")]


def test_a_terminal(cri: CriClient, pod: Pod, busybox: str, logs: Path) -> None:
    config = container_config(busybox, "sh", "-c", "tty; echo $TERM; echo err >&2", log_path="0.log", tty=True)
    _ended(cri, cri.start(*pod, config))
    lines = _lines(logs / "0.log")
    assert [line for _, line in lines] == ["/dev/pts/0\r", "xterm\r", "err\r"]
    assert {stream for stream, _ in lines} == {"stdout"}


def test_standard_input_stays_open(cri: CriClient, pod: Pod, busybox: str) -> None:
    waiting = cri.start(*pod, container_config(busybox, "cat", name="in", stdin=True))
    without = cri.start(*pod, container_config(busybox, "cat", name="no"))
    assert _ended(cri, without).exit_code == 0
    assert cri.status(waiting).state == cri_pb2.CONTAINER_RUNNING


def test_mounts(cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("inside")
    (tmp_path / "single").write_text("one file")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    mount = cri_pb2.Mount
    config = container_config(
        busybox,
        "sleep",
        "1000",
        mounts=[
            mount(container_path="/data/deeper", host_path=str(tmp_path / "new")),
            mount(container_path="/data", host_path=str(tmp_path / "link"), readonly=True, recursive_read_only=True),
            mount(container_path="/single", host_path=str(tmp_path / "single")),
            mount(container_path="/etc/hosts", host_path=str(tmp_path / "single"), readonly=True),
        ],
    )
    (tmp_path / "data/deeper").mkdir()
    container = cri.start(*pod, config)
    assert cri.execute(container, "cat", "/data/file", "/single", "/etc/hosts").stdout == b"insideone fileone file"
    assert cri.execute(container, "touch", "/data/x").exit_code != 0
    assert cri.execute(container, "touch", "/data/deeper/x").exit_code == 0
    assert (tmp_path / "new/x").exists()
    assert list(cri.status(container).mounts) == list(config.mounts)


def test_propagation_needs_a_shared_mount(cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    mount = cri_pb2.Mount(container_path="/x", host_path=str(tmp_path), propagation=cri_pb2.PROPAGATION_BIDIRECTIONAL)
    shared = any(
        " /tmp " in line and "shared:" in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    if shared or "shared:" in Path("/proc/self/mountinfo").read_text().splitlines()[0]:
        cri.create(*pod, container_config(busybox, "true", mounts=[mount]))
    else:
        with pytest.raises(MoorageError, match="shared mount"):
            cri.create(*pod, container_config(busybox, "true", mounts=[mount]))


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (Security(), "uid=0(root) gid=0(root) groups=0(root)"),
        (Security(run_as_user={"value": 33}), "uid=33(www-data) gid=33(www-data) groups=33(www-data),50(staff)"),
        (Security(run_as_username="www-data"), "uid=33(www-data) gid=33(www-data) groups=33(www-data),50(staff)"),
        (
            Security(run_as_username="www-data", supplemental_groups_policy=cri_pb2.Strict, supplemental_groups=[7]),
            "uid=33(www-data) gid=33(www-data) groups=7,33(www-data)",
        ),
        (
            Security(run_as_user={"value": 1234}, run_as_group={"value": 50}, supplemental_groups=[99]),
            "uid=1234 gid=50(staff) groups=50(staff),99",
        ),
    ],
)
def test_users_and_groups(cri: CriClient, pod: Pod, busybox: str, security: Security, expected: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", security=security))
    assert cri.execute(container, "id").stdout.decode().strip() == expected
    assert cri.status(container).user.linux.uid == int(
        expected.split("=")[1].split("(", maxsplit=1)[0].split(maxsplit=1)[0]
    )


def test_capabilities_and_privileges(cri: CriClient, pod: Pod, busybox: str) -> None:
    security = Security(
        capabilities=cri_pb2.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["CHOWN"]),
        no_new_privs=True,
        readonly_rootfs=True,
        masked_paths=["/proc/keys"],
        readonly_paths=["/proc/sys"],
        seccomp=cri_pb2.SecurityProfile(profile_type=cri_pb2.SecurityProfile.RuntimeDefault),
    )
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", security=security))
    status = cri.execute(container, "cat", "/proc/1/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    caps = int(fields["CapEff"], 16)
    assert caps >> 12 & 1
    assert not caps & 1
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert cri.execute(container, "touch", "/x").exit_code != 0
    assert cri.execute(container, "sh", "-c", "wc -c < /proc/keys").stdout.strip() == b"0"
    assert cri.execute(container, "sh", "-c", "echo x > /proc/sys/kernel/hostname").exit_code != 0
    assert cri.execute(container, "unshare", "-m", "true").exit_code != 0


def test_ambient_capabilities_outlive_a_change_of_user(cri: CriClient, pod: Pod, busybox: str) -> None:
    wanted = cri_pb2.Capability(add_ambient_capabilities=["NET_BIND_SERVICE", "CAP_SYS_TIME"])
    security = Security(run_as_user={"value": 33}, capabilities=wanted)
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", security=security))
    status = cri.execute(container, "cat", "/proc/1/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    expected = 1 << 10 | 1 << 25
    assert [int(fields[name], 16) for name in ("CapAmb", "CapInh", "CapEff")] == [expected] * 3


def test_mount_options(cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"#!/bin/sh\necho ran\n")
    (tmp_path / "program").chmod(0o755)
    mounts = [
        cri_pb2.Mount(container_path="/plain", host_path=str(tmp_path)),
        cri_pb2.Mount(container_path="/strict", host_path=str(tmp_path), mount_options=["noexec", "nosuid"]),
    ]
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", mounts=mounts))
    assert cri.execute(container, "/plain/program").stdout == b"ran\n"
    assert cri.execute(container, "sh", "-c", "/strict/program").exit_code == 126
    wrong = [cri_pb2.Mount(container_path="/x", host_path=str(tmp_path), mount_options=["noexec", "upperdir=/etc"])]
    with pytest.raises(MoorageError, match="upperdir"):
        cri.create(*pod, container_config(busybox, "true", name="other", mounts=wrong))


def test_a_local_seccomp_profile(cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    (tmp_path / "p.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    profile = cri_pb2.SecurityProfile(
        profile_type=cri_pb2.SecurityProfile.Localhost, localhost_ref=str(tmp_path / "p.json")
    )
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", security=Security(seccomp=profile)))
    assert b"Permission denied" in cri.execute(container, "mkdir", "/x").stderr
    profile.localhost_ref = str(tmp_path / "none.json")
    config = container_config(busybox, "true", name="other", security=Security(seccomp=profile))
    assert _code(lambda: cri.create(*pod, config)) is Code.INVALID_ARGUMENT


def test_privilege_is_the_pod_s_to_give(cri: CriClient, pod: Pod, busybox: str) -> None:
    privileged = container_config(busybox, "sleep", "1000", security=Security(privileged=True))
    assert _code(lambda: cri.create(*pod, privileged)) is Code.INVALID_ARGUMENT
    config = pod_config(network=cri_pb2.NODE)
    config.linux.security_context.privileged = True
    container = cri.start(cri.run_pod(config), config, privileged)
    assert cri.execute(container, "test", "-c", "/dev/kmsg").exit_code == 0
    own = int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line).split()[1], 16
    )
    caps = cri.execute(container, "grep", "CapEff", "/proc/1/status").stdout
    assert int(caps.split()[1], 16) == own


def test_a_device(cri: CriClient, pod: Pod, busybox: str, tmp_path: Path) -> None:
    # No driver has this number, so opening it fails otherwise than where the cgroup forbids it.
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(240, 77))
    device = cri_pb2.Device(container_path="/dev/mine", host_path=str(node), permissions="r")
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", devices=[device]))
    assert b"No such device" in cri.execute(container, "sh", "-c", ": < /dev/mine").stderr
    assert b"not permitted" in cri.execute(container, "sh", "-c", ": > /dev/mine").stderr


def test_limits_reach_the_cgroup(cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str) -> None:
    limits = cri_pb2.LinuxContainerResources(
        cpu_shares=512, cpu_quota=20000, cpu_period=100000, memory_limit_in_bytes=64 << 20, oom_score_adj=500
    )
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", resources=limits))
    folder = f"{shared_daemon.cgroup_parent}/{container}"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        memory = Path(f"/sys/fs/cgroup/{folder}/memory.max")
    else:
        memory = Path(f"/sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes")
    assert memory.read_text().strip() == str(64 << 20)
    assert cri.execute(container, "cat", "/proc/1/oom_score_adj").stdout == b"500\n"
    assert cri.status(container).resources.linux == limits


def test_limits_change_while_it_runs(cri: CriClient, pod: Pod, busybox: str) -> None:
    limits = cri_pb2.LinuxContainerResources(cpuset_cpus="0", cpu_period=100_000, cpu_quota=20_000)
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", resources=limits))
    own = "/sys/fs/cgroup" if host().unified else "/sys/fs/cgroup/*"
    cpus = f"cat {own}/cpuset.cpus | head -1"
    assert cri.execute(container, "sh", "-c", cpus).stdout.strip() == b"0"
    last = (os.cpu_count() or 1) - 1
    wanted = f"0-{last}" if last else "0"
    cri.UpdateContainerResources(container_id=container, linux={"cpuset_cpus": wanted, "cpu_quota": 30_000})
    assert cri.execute(container, "sh", "-c", cpus).stdout.decode().strip() == wanted
    shown = cri.status(container).resources.linux
    assert (shown.cpuset_cpus, shown.cpu_quota, shown.cpu_period) == (wanted, 30_000, 100_000)
    assert (
        _code(lambda: cri.UpdateContainerResources(container_id=container, linux={"cpuset_cpus": "x"})) is not Code.OK
    )
    assert cri.status(container).resources.linux == shown


@pytest.mark.skipif(host().unified, reason="this host has cgroup v2 alone, where both are possible")
@pytest.mark.parametrize(
    "limits",
    [
        {"unified": {"memory.high": "100000"}},
        pytest.param(
            {"hugepage_limits": [{"page_size": "2MB", "limit": 2 << 20}]},
            marks=pytest.mark.skipif(host().hugetlb, reason="this host has the hugetlb controller"),
        ),
    ],
)
def test_limits_that_this_host_cannot_set(cri: CriClient, pod: Pod, busybox: str, limits: dict[str, object]) -> None:
    resources = cri_pb2.LinuxContainerResources(**limits)  # type: ignore[arg-type]
    refused = container_config(busybox, "true", name="refused", resources=resources)
    assert _code(lambda: cri.create(*pod, refused)) is Code.INVALID_ARGUMENT
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    update = {"container_id": container, "linux": limits | {"cpu_shares": 512}}
    assert _code(lambda: cri.UpdateContainerResources(**update)) is Code.INVALID_ARGUMENT
    assert cri.status(container).resources.linux.cpu_shares == 0


def test_running_out_of_memory_is_told(cri: CriClient, pod: Pod, busybox: str) -> None:
    limits = cri_pb2.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    config = container_config(busybox, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M", resources=limits)
    status = _ended(cri, cri.start(*pod, config))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_exec_sync(cri: CriClient, pod: Pod, busybox: str) -> None:
    security = Security(run_as_user={"value": 33})
    container = cri.start(*pod, container_config(busybox, "sleep", "1000", security=security))
    answer = cri.execute(container, "sh", "-c", "id -u; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"33\n", b"err\n", 3)
    assert cri.execute(container, "sh", "-c", "head -c 3000000 /dev/zero").stdout == bytes(3000000)
    with pytest.raises(MoorageError, match="no-such-program"):
        cri.execute(container, "no-such-program")
    with pytest.raises(MoorageError, match="no command"):
        cri.execute(container)


def test_exec_sync_is_bounded(cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str) -> None:
    container = cri.start(*pod, container_config(busybox, "sleep", "1000"))
    started = time.monotonic()
    assert _code(lambda: cri.execute(container, "sleep", "999", timeout=1)) is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5
    code = _code(lambda: cri.ExecSync(container_id=container, cmd=["sleep", "998"], deadline=1))
    assert code is Code.DEADLINE_EXCEEDED
    _gone(cri, container, "sleep 99")
    answer = cri.execute(container, "sh", "-c", "head -c 20000000 /dev/zero; echo err >&2", timeout=20)
    assert (len(answer.stdout), answer.stderr, answer.exit_code) == ((16 << 20) - 4096, b"", 0)
    started = time.monotonic()
    assert cri.execute(container, "sh", "-c", "sleep 8 & echo done").stdout == b"done\n"
    assert time.monotonic() - started < 7
    folder = shared_daemon.state / "io.containerd.grpc.v1.cri/exec"
    until(lambda: list(folder.iterdir()) == [])


def test_exec_sync_needs_a_running_container(cri: CriClient, pod: Pod, busybox: str) -> None:
    container = cri.create(*pod, container_config(busybox, "true"))
    assert _code(lambda: cri.execute(container, "true")) is Code.FAILED_PRECONDITION
    assert _code(lambda: cri.execute("unknown", "true")) is Code.NOT_FOUND


def test_a_name_is_held_until_the_container_is_removed(cri: CriClient, pod: Pod, busybox: str) -> None:
    config = container_config(busybox, "true")
    container = cri.create(*pod, config)
    with pytest.raises(MoorageError, match=f"is held by {container}"):
        cri.create(*pod, config)
    cri.RemoveContainer(container_id=container)
    assert cri.create(*pod, config) != container


@pytest.mark.parametrize(
    "config",
    [
        cri_pb2.ContainerConfig(),
        container_config("IMAGE", "true", name="a/b"),
        container_config("IMAGE", "true", log_path="../../etc/x"),
        container_config("IMAGE", "true", log_path="/etc/x"),
        container_config("IMAGE", "true", working_dir="relative"),
        container_config("IMAGE", "true", envs=[cri_pb2.KeyValue(key="A", value=b"\xff")]),
        container_config("IMAGE", "true", envs=[cri_pb2.KeyValue(key="", value=b"x")]),
        container_config("IMAGE", "true", mounts=[cri_pb2.Mount(container_path="/x", host_path="relative")]),
        container_config("IMAGE", "true", mounts=[cri_pb2.Mount(host_path="/tmp")]),
        container_config(
            "IMAGE", "true", mounts=[cri_pb2.Mount(container_path="/x", host_path="/tmp", recursive_read_only=True)]
        ),
        container_config("IMAGE", "true", security=Security(run_as_user={"value": -1})),
        container_config("IMAGE", "true", security=Security(run_as_group={"value": 5})),
        container_config("IMAGE", "true", security=Security(supplemental_groups=[2**40])),
        container_config("IMAGE", "true", security=Security(capabilities=cri_pb2.Capability(add_capabilities=["FLY"]))),
        container_config("IMAGE", "true", resources=cri_pb2.LinuxContainerResources(oom_score_adj=5000)),
        container_config("IMAGE", "true", resources=cri_pb2.LinuxContainerResources(unified={"../x": "1"})),
        container_config("IMAGE", "true", stop_signal=999),
        container_config(
            "IMAGE", "true", devices=[cri_pb2.Device(host_path="/etc", container_path="/d", permissions="x")]
        ),
    ],
)
def test_a_container_that_cannot_be_is_refused_and_leaves_nothing(
    cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str, config: cri_pb2.ContainerConfig
) -> None:
    if config.image.image:
        config.image.image = busybox
    assert _code(lambda: cri.create(*pod, config)) is Code.INVALID_ARGUMENT
    assert list(cri.ListContainers().containers) == []
    _nothing_left(shared_daemon)


@pytest.mark.parametrize(
    "security", [Security(run_as_username="nobody-here"), Security(run_as_username="root:nogroup-here")]
)
def test_an_unknown_user_is_refused_and_leaves_nothing(
    cri: CriClient, shared_daemon: Daemon, pod: Pod, busybox: str, security: Security
) -> None:
    config = container_config(busybox, "true", security=security)
    assert _code(lambda: cri.create(*pod, config)) is Code.NOT_FOUND
    _nothing_left(shared_daemon)


def test_containers_need_an_image_and_a_pod_that_is_ready(cri: CriClient, pod: Pod, busybox: str) -> None:
    config = container_config(busybox, "true")
    assert _code(lambda: cri.create("nope", pod[1], config)) is Code.NOT_FOUND
    assert _code(lambda: cri.create(*pod, container_config("no/such:image", "true"))) is Code.NOT_FOUND
    container = cri.create(*pod, config)
    cri.StopPodSandbox(pod_sandbox_id=pod[0])
    assert _code(lambda: cri.StartContainer(container_id=container)) is Code.FAILED_PRECONDITION
    other = container_config(busybox, "true", name="other")
    assert _code(lambda: cri.create(*pod, other)) is Code.FAILED_PRECONDITION


def test_unknown_containers_are_gone_already(cri: CriClient) -> None:
    cri.stop("0123456789")
    cri.RemoveContainer(container_id="0123456789")
    cri.StopPodSandbox(pod_sandbox_id="0123456789")
    cri.RemovePodSandbox(pod_sandbox_id="0123456789")
    for call in (cri.StartContainer, cri.ContainerStatus, cri.ReopenContainerLog):
        assert _code(lambda call=call: call(container_id="0123456789")) is Code.NOT_FOUND
    assert _code(cri.ContainerStatus) is Code.INVALID_ARGUMENT


def _gone(cri: CriClient, container: str, command: str) -> None:
    deadline = time.monotonic() + 5
    while command in cri.execute(container, "ps").stdout.decode():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _nothing_left(daemon: Daemon) -> None:
    snapshots = daemon.run("ctr", "-n", "k8s.io", "snapshots", "ls").splitlines()[1:]
    assert {line.split()[-1] for line in snapshots} == {"Committed"}
    assert daemon.run("ctr", "-n", "k8s.io", "containers", "ls").splitlines()[1:] == []
    assert list((daemon.root / "io.containerd.grpc.v1.cri/containers").glob("*")) == []


def test_what_an_image_says_of_its_containers(cri: CriClient, pod: Pod, registry: Registry) -> None:
    layer = LayerBuilder().folder("data").folder("data/sub", 0o750).file("data/sub/file", b"from the image\n", 0o640)
    layer.symlink("data/link", "/etc/shadow").symlink("escape", "../../../../../../../root")
    config = {
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["exec sleep 1000"],
        "Env": ["PATH=/bin", "FROM=image"],
        "User": "www-data",
        "WorkingDir": "/var/www",
        "StopSignal": "SIGKILL",
        "Volumes": {"/data": {}, "/new/volume": {}, "/escape": {}},
        "Labels": {"containerd.io/gc.root": "x", "maintainer": "me"},
    }
    push(registry.address, "test/defaults", "1", ImageSpec([busybox_layer(), layer.build()], config))
    reference = f"{registry.address}/test/defaults:1"
    cri.PullImage(image={"image": reference})
    assert cri.ImageStatus(image={"image": reference}).image.username == "www-data"
    container = cri.start(*pod, container_config(reference))
    status = cri.status(container)
    assert status.stop_signal == cri_pb2.SIGNAL_SIGKILL
    assert (status.user.linux.uid, list(status.user.linux.supplemental_groups)) == (33, [33, 50])
    assert cri.execute(container, "sh", "-c", "id -un; pwd; echo $FROM").stdout == b"www-data\n/var/www\nimage\n"
    root = container_config(reference, "sleep", "1000", name="root", security=Security(run_as_user={"value": 0}))
    other = cri.start(*pod, root)
    script = "cat /data/sub/file; stat -c %a /data/sub /data/sub/file; readlink /data/link; ls -A /new/volume /escape/"
    assert cri.execute(other, "sh", "-c", script).stdout == (
        b"from the image\n750\n640\n/etc/shadow\n/escape/:\n\n/new/volume:\n"
    )
    assert cri.execute(other, "sh", "-c", "echo changed > /data/sub/file").exit_code == 0
    assert cri.execute(other, "sh", "-c", "grep ' /data ' /proc/mounts").exit_code == 0
