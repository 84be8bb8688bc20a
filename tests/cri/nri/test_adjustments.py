"""What plugins change of containers, as the containers find it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from moorage_api.errors import MoorageError
from moorage_api.wire import cri_pb2
from moorage_api.wire import nri_pb2 as pb
from support.nri import Join, Pod


def adjuster(**fields: Any) -> Any:
    """A handler that adjusts every container so."""

    def create(_: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(**fields))

    return create


def specification(pod: Pod, container: str) -> dict[str, Any]:
    info = pod.cri.ContainerStatus(container_id=container, verbose=True).info["info"]
    spec: dict[str, Any] = json.loads(info)["runtimeSpec"]
    return spec


def test_what_a_process_sees(join: Join, pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from the host")
    linux = pb.LinuxContainerAdjustment(
        devices=[pb.LinuxDevice(path="/dev/nought", type="c", major=1, minor=3, uid=pb.OptionalUInt32(value=7))],
        sysctl={"net.ipv4.ip_forward": "1"},
        oom_score_adj=pb.OptionalInt(value=900),
    )
    create = adjuster(
        env=[pb.KeyValue(key="ADDED", value="1=1"), pb.KeyValue(key="-GONE"), pb.KeyValue(key="CHANGED", value="new")],
        mounts=[pb.Mount(destination="/extra", type="bind", source=str(tmp_path), options=["rbind", "ro"])],
        rlimits=[pb.POSIXRlimit(type="RLIMIT_NOFILE", soft=64, hard=128)],
        annotations={"test.example/added": "x"},
        linux=linux,
    )
    join(CreateContainer=create)
    variables = [cri_pb2.KeyValue(key=key, value=b"old") for key in ("GONE", "CHANGED")]
    container = pod.start(envs=variables)
    environment = pod.output(container, "env").splitlines()
    assert {"ADDED=1=1", "CHANGED=new"} <= set(environment)
    assert not [line for line in environment if line.startswith("GONE=")]
    assert pod.output(container, "cat", "/extra/note") == "from the host"
    assert pod.output(container, "sh", "-c", "ulimit -Sn; ulimit -Hn").split() == ["64", "128"]
    assert pod.output(container, "stat", "-c", "%F %t:%T %u", "/dev/nought").strip() == "character special file 1:3 7"
    pod.output(container, "sh", "-c", "echo x > /dev/nought")
    assert pod.output(container, "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert pod.output(container, "cat", "/proc/1/oom_score_adj").strip() == "900"
    assert specification(pod, container)["annotations"]["test.example/added"] == "x"


def test_arguments(join: Join, pod: Pod) -> None:
    join("first", "00", CreateContainer=adjuster(args=["sleep", "500"]))
    join("second", "10", CreateContainer=adjuster(args=["", "sleep", "501"]))
    assert pod.output(pod.start(), "cat", "/proc/1/cmdline").split("\0")[:2] == ["sleep", "501"]


def test_limits_are_set_and_shown(join: Join, pod: Pod) -> None:
    resources = pb.LinuxResources(
        memory=pb.LinuxMemory(limit=pb.OptionalInt64(value=64 << 20), reservation=pb.OptionalInt64(value=32 << 20)),
        cpu=pb.LinuxCPU(shares=pb.OptionalUInt64(value=333)),
        pids=pb.LinuxPids(limit=77),
    )
    plugin = join(CreateContainer=adjuster(linux=pb.LinuxContainerAdjustment(resources=resources)))
    container = pod.start()
    found = specification(pod, container)["linux"]["resources"]
    assert found["memory"]["limit"] == 64 << 20
    assert found["memory"]["reservation"] == 32 << 20
    assert (found["cpu"]["shares"], found["pids"]["limit"]) == (333, 77)
    shown = pod.cri.status(container).resources.linux
    assert (shown.memory_limit_in_bytes, shown.cpu_shares) == (64 << 20, 333)
    # What the plugin has set stays when another limit is changed.
    pod.cri.UpdateContainerResources(
        container_id=container, linux=cri_pb2.LinuxContainerResources(memory_limit_in_bytes=128 << 20)
    )
    found = specification(pod, container)["linux"]["resources"]
    assert (found["memory"]["limit"], found["memory"]["reservation"]) == (128 << 20, 32 << 20)
    assert (found["cpu"]["shares"], found["pids"]["limit"]) == (333, 77)
    assert plugin.wait_for("PostUpdateContainer").container.linux.resources.pids.limit == 77


def test_hooks_run(join: Join, pod: Pod, tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\necho $0 $WORD >> {tmp_path}/ran\n")
    script.chmod(0o755)
    hook = pb.Hook(path=str(script), args=["created"], env=["WORD=x", "PATH=/bin"], timeout=pb.OptionalInt(value=10))
    join(CreateContainer=adjuster(hooks=pb.Hooks(create_runtime=[hook])))
    pod.start()
    assert (tmp_path / "ran").read_text().endswith("x\n")


def test_a_cgroup_of_its_own(join: Join, pod: Pod) -> None:
    def create(request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        path = f"{os.path.dirname(request.container.linux.cgroups_path)}/nri-{request.container.id[:12]}"
        linux = pb.LinuxContainerAdjustment(cgroups_path=path)
        return pb.CreateContainerResponse(adjust=pb.ContainerAdjustment(linux=linux))

    join(CreateContainer=create)
    container = pod.start()
    paths = [line.rpartition(":")[2] for line in pod.output(container, "cat", "/proc/1/cgroup").splitlines()]
    assert any(path.endswith(f"nri-{container[:12]}") for path in paths), paths
    stats = pod.cri.ContainerStats(container_id=container).stats
    assert stats.memory.working_set_bytes.value > 0


def test_a_seccomp_policy(join: Join, pod: Pod) -> None:
    policy = pb.LinuxSeccomp(
        default_action="SCMP_ACT_ALLOW",
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        syscalls=[
            pb.LinuxSyscall(names=["mkdir", "mkdirat"], action="SCMP_ACT_ERRNO", errno_ret=pb.OptionalUInt32(value=28))
        ],
    )
    join(CreateContainer=adjuster(linux=pb.LinuxContainerAdjustment(seccomp_policy=policy)))
    container = pod.start()
    refused = pod.cri.execute(container, "mkdir", "/tmp/x")
    assert refused.exit_code
    assert b"No space left" in refused.stderr


def test_a_namespace(join: Join, pod: Pod) -> None:
    namespaces = [pb.LinuxNamespace(type="-uts"), pb.LinuxNamespace(type="ipc")]
    join(CreateContainer=adjuster(linux=pb.LinuxContainerAdjustment(namespaces=namespaces)))
    container = pod.start()
    uts, ipc = (pod.output(container, "readlink", f"/proc/1/ns/{kind}").strip() for kind in ("uts", "ipc"))
    assert uts == os.readlink("/proc/self/ns/uts")
    assert ipc != os.readlink("/proc/self/ns/ipc")


def test_removals(join: Join, pod: Pod, tmp_path: Path) -> None:
    linux = pb.LinuxContainerAdjustment(devices=[pb.LinuxDevice(path="-/dev/mine")])
    join(CreateContainer=adjuster(mounts=[pb.Mount(destination="-/there")], linux=linux))
    container = pod.start(
        mounts=[cri_pb2.Mount(container_path="/there", host_path=str(tmp_path))],
        devices=[cri_pb2.Device(container_path="/dev/mine", host_path="/dev/null", permissions="rwm")],
    )
    assert pod.cri.execute(container, "ls", "/dev/mine").exit_code
    assert "/there" not in pod.output(container, "cat", "/proc/mounts")
    assert stat.S_ISDIR(os.stat(tmp_path).st_mode)


class TestSeveral:
    """Plugins by index: each sees what those before it have set, and none sets what another has."""

    def test_in_order(self, join: Join, pod: Pod) -> None:
        last = join("last", "90", CreateContainer=adjuster(env=[pb.KeyValue(key="LAST", value="1")]))
        first = join("first", "05", CreateContainer=adjuster(env=[pb.KeyValue(key="FIRST", value="1")]))
        container = pod.start()
        assert {"FIRST=1", "LAST=1"} <= set(pod.output(container, "env").splitlines())
        assert "FIRST=1" in last.wait_for("CreateContainer").container.env
        assert "LAST=1" not in first.wait_for("CreateContainer").container.env

    def test_a_conflict(self, join: Join, pod: Pod) -> None:
        for name in ("one", "two"):
            join(name, CreateContainer=adjuster(env=[pb.KeyValue(key="SAME", value=name)]))
        with pytest.raises(MoorageError, match="NRI plugins 10-one and 10-two both set Env SAME of container"):
            pod.create()
        assert pod.cri.ListContainers().containers == []

    def test_what_is_removed_first_may_be_set(self, join: Join, pod: Pod) -> None:
        join("one", CreateContainer=adjuster(env=[pb.KeyValue(key="SAME", value="one")]))
        both = [pb.KeyValue(key="-SAME"), pb.KeyValue(key="SAME", value="two")]
        join("two", CreateContainer=adjuster(env=both))
        assert "SAME=two" in pod.output(pod.start(), "env").splitlines()


class TestWhatCannotBe:
    """The container is refused, and the reason names what it is."""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"env": [pb.KeyValue(key="A=B", value="x")]}, "invalid environment variable 'A=B'"),
            ({"linux": {"namespaces": [{"type": "soul"}]}}, "unknown namespace 'soul'"),
            ({"linux": {"resources": {"blockio_class": {"value": "fast"}}}}, "no block I/O class 'fast'"),
        ],
    )
    def test_it_is_refused(self, join: Join, pod: Pod, fields: dict[str, Any], message: str) -> None:
        plugin = join(CreateContainer=adjuster(**fields))
        with pytest.raises(MoorageError, match=message):
            pod.create()
        assert plugin.story(plugin.wait_for("CreateContainer").container.id)[-1] == "RemoveContainer"
        assert not plugin.closed.is_set()
