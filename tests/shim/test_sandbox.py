"""The sandbox service: namespaces that are pinned, shared and let go."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, InvalidArgument, MoorageError, NotFound
from moorage_api.wire import moorage_shim_pb2
from moorage_api.wire import runtime_sandbox_pb2 as sb
from moorage_api.wire import shim_v3_pb2 as pb
from support.leftovers import mounts_below
from support.shim import Node, ShimClient
from support.terminal import wait_until

SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"
ALL = ("network", "ipc", "uts", "pid")
FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}


def creation(node: Node, *namespaces: str, **options: object) -> sb.CreateSandboxRequest:
    path = node.folder / "pod"
    path.mkdir(exist_ok=True)
    request = sb.CreateSandboxRequest(sandbox_id="pod", bundle_path=str(path))
    wanted = moorage_shim_pb2.SandboxOptions(namespaces=namespaces, path=str(path), **options)  # type: ignore[arg-type]
    request.options.Pack(wanted)
    return request


async def pod(node: Node) -> ShimClient:
    node.bundle("pod", "/bin/true")
    return await node.shim("pod")


async def started(node: Node, *namespaces: str, **options: object) -> ShimClient:
    client = await pod(node)
    await client.call("CreateSandbox", creation(node, *namespaces, **options), SANDBOX)
    await client.call("StartSandbox", sb.StartSandboxRequest(sandbox_id="pod"), SANDBOX)
    return client


async def stop(client: ShimClient) -> None:
    await client.call("StopSandbox", sb.StopSandboxRequest(sandbox_id="pod", timeout_secs=10), SANDBOX)


def joining(node: Node, *namespaces: str) -> dict[str, object]:
    """The `linux` of a container that shares namespaces with the pod."""
    shared = [{"type": name, "path": str(node.folder / "pod/ns" / FILES[name])} for name in namespaces]
    return {"namespaces": [*shared, {"type": "mount"}]}


async def test_a_pod(node: Node) -> None:
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1"}
    client = await started(node, *ALL, hostname="a-pod", sysctls=sysctls, shm_size=1 << 20)
    status = await client.call("SandboxStatus", sb.SandboxStatusRequest(sandbox_id="pod", verbose=True), SANDBOX)
    assert status.state == "SANDBOX_READY"
    path = node.folder / "pod"
    for name, file in FILES.items():
        assert os.stat(path / "ns" / file).st_ino != os.stat(f"/proc/self/ns/{file}").st_ino, name
    assert os.statvfs(path / "shm").f_blocks * os.statvfs(path / "shm").f_frsize == 1 << 20

    log = node.folder / "log"
    command = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip link show lo; echo pid $$"
    bundle = node.bundle("c", "/bin/sh", "-c", command, linux=joining(node, *ALL))
    config = json.loads((bundle / "config.json").read_text())
    config.pop("hostname", None)
    (bundle / "config.json").write_text(json.dumps(config))
    await client.call("Create", node.create("c", stdout=f"file://{log}"))
    await client.call("Start", pb.StartRequest(id="c"))
    assert (await client.call("Wait", pb.WaitRequest(id="c"))).exit_status == 0
    lines = log.read_text().splitlines()
    assert lines[:2] == ["a-pod", "0"]
    assert "LOOPBACK,UP" in lines[2]
    assert lines[-1] != "pid 1"
    await client.call("Delete", pb.DeleteRequest(id="c"))

    await stop(client)
    assert mounts_below(path) == []
    assert list(path.iterdir()) == []
    waited = await client.call("WaitSandbox", sb.WaitSandboxRequest(sandbox_id="pod"), SANDBOX)
    assert waited.exited_at.seconds
    await client.call("ShutdownSandbox", sb.ShutdownSandboxRequest(sandbox_id="pod"), SANDBOX)
    async with asyncio.timeout(10):
        while Path(f"/proc/{node.shims[0].pid}").exists():
            await asyncio.sleep(0.02)


async def test_stop_kills_the_containers(node: Node) -> None:
    client = await started(node, "network", "pid")
    for id in ("c1", "c2"):
        bundle = node.bundle(id, "/bin/sleep", "600", linux=joining(node, "network", "pid"))
        await client.call("Create", node.create(id))
        await client.call("Start", pb.StartRequest(id=id))
        assert not (bundle / "exit.json").exists()
    await client.call("Shutdown", pb.ShutdownRequest(id="c1"))
    await stop(client)
    for id in ("c1", "c2"):
        assert (await client.call("Wait", pb.WaitRequest(id=id))).exit_status == 137
    status = await client.call("SandboxStatus", sb.SandboxStatusRequest(sandbox_id="pod"), SANDBOX)
    assert status.state == "SANDBOX_NOTREADY"
    await stop(client)


async def test_the_end_of_the_init_is_the_end_of_the_pod(crun_node: Node) -> None:
    client = await started(crun_node, "pid")
    status = await client.call("SandboxStatus", sb.SandboxStatusRequest(sandbox_id="pod"), SANDBOX)
    waiting = asyncio.create_task(client.call("WaitSandbox", sb.WaitSandboxRequest(sandbox_id="pod"), SANDBOX))
    os.kill(status.pid, 9)
    assert (await waiting).exit_status == 137
    assert mounts_below(crun_node.folder) == []


@pytest.mark.parametrize(
    ("namespaces", "options", "says"),
    [
        (("time",), {}, "unknown namespace"),
        (("ipc",), {"hostname": "x"}, "UTS"),
        (("ipc",), {"sysctls": {"net.core.somaxconn": "1"}}, "net.core.somaxconn"),
        (("network",), {"sysctls": {"net.../../kernel/hostname": "x"}}, "sysctl"),
    ],
)
async def test_wrong_options(
    crun_node: Node, namespaces: tuple[str, ...], options: dict[str, object], says: str
) -> None:
    client = await pod(crun_node)
    with pytest.raises(InvalidArgument, match=says):
        await client.call("CreateSandbox", creation(crun_node, *namespaces, **options), SANDBOX)


async def test_a_failure_undoes_all(crun_node: Node) -> None:
    """The sysctl is refused when all the rest is made."""
    client = await pod(crun_node)
    wrong = creation(crun_node, *ALL, hostname="x", shm_size=4096, sysctls={"net.ipv4.ip_forward": "nonsense"})
    with pytest.raises(MoorageError, match=r"pod namespaces: .*net\.ipv4\.ip_forward=nonsense"):
        await client.call("CreateSandbox", wrong, SANDBOX)
    assert mounts_below(crun_node.folder) == []
    assert list((crun_node.folder / "pod").iterdir()) == []
    await client.call("CreateSandbox", creation(crun_node, "uts", hostname="x"), SANDBOX)
    with pytest.raises(AlreadyExists):
        await client.call("CreateSandbox", creation(crun_node), SANDBOX)
    with pytest.raises(NotFound):
        await client.call("PingSandbox", sb.PingRequest(sandbox_id="other"), SANDBOX)
    await client.call("PingSandbox", sb.PingRequest(sandbox_id="pod"), SANDBOX)
    platform = await client.call("Platform", sb.PlatformRequest(sandbox_id="pod"), SANDBOX)
    assert platform.platform.os == "linux"
    await stop(client)


async def test_metrics_are_those_of_the_containers_parent(crun_node: Node) -> None:
    client = await started(crun_node, "uts", hostname="x")
    request = sb.SandboxMetricsRequest(sandbox_id="pod")
    assert not (await client.call("SandboxMetrics", request, SANDBOX)).metrics.data.type_url
    crun_node.bundle("c", "/bin/sleep", "600")
    await client.call("Create", crun_node.create("c"))
    metrics = (await client.call("SandboxMetrics", request, SANDBOX)).metrics
    assert metrics.data.type_url == "io.containerd.cgroups.v1.Metrics"
    await client.call("Start", pb.StartRequest(id="c"))
    await stop(client)


async def test_it_is_quick(crun_node: Node) -> None:
    """No process is executed for namespaces: milliseconds, even on a busy machine."""
    client = await pod(crun_node)
    started = time.monotonic()
    await client.call("CreateSandbox", creation(crun_node, "network", "ipc", "uts", hostname="x"), SANDBOX)
    assert time.monotonic() - started < 0.5
    await stop(client)


async def test_a_pod_in_a_user_namespace(node: Node) -> None:
    """It owns the other namespaces; the pod's init and what enters them are its root."""
    mapping = "0:200000:65536"
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"}
    client = await started(
        node, "user", *ALL, hostname="mapped", sysctls=sysctls, shm_size=1 << 20, uid_map=mapping, gid_map=mapping
    )
    path = node.folder / "pod"
    init = (await client.call("SandboxStatus", sb.SandboxStatusRequest(sandbox_id="pod"), SANDBOX)).pid
    wait_until(lambda: os.stat(f"/proc/{init}").st_uid == 200000, "the init is the root of its namespace")
    assert os.stat(path / "shm").st_uid == 200000
    inodes = {name: os.stat(path / "ns" / name).st_ino for name in ("user", "pid")}
    assert inodes == {name: os.stat(f"/proc/{init}/ns/{name}").st_ino for name in ("user", "pid")}
    enter = [
        "nsenter",
        *(f"--{option}={path}/ns/{file}" for option, file in (("user", "user"), *FILES.items()) if option != "network"),
    ]
    script = "id -u; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname changed && hostname"
    command = [*enter, f"--net={path}/ns/net", "--setuid=0", "sh", "-c", script]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert (await done.communicate())[0].split() == [b"0", b"mapped", b"7", b"changed"]
    await stop(client)
    assert mounts_below(path) == []
    assert not os.path.exists(f"/proc/{init}")


@pytest.mark.parametrize("maps", [{}, {"uid_map": "0:1:1"}, {"uid_map": "x", "gid_map": "0:1:1"}])
async def test_a_user_namespace_needs_mappings(node: Node, maps: dict[str, str]) -> None:
    client = await pod(node)
    with pytest.raises(InvalidArgument):
        await client.call("CreateSandbox", creation(node, "user", "ipc", **maps), SANDBOX)
    assert mounts_below(node.folder / "pod") == []


async def test_a_failure_in_a_user_namespace_leaves_nothing(node: Node) -> None:
    client = await pod(node)
    mapping = {"uid_map": "0:200000:65536", "gid_map": "0:200000:65536"}
    request = creation(node, "user", *ALL, sysctls={"kernel.shmall": "nonsense"}, **mapping)
    with pytest.raises(MoorageError, match=r"kernel.shmall"):
        await client.call("CreateSandbox", request, SANDBOX)
    assert mounts_below(node.folder / "pod") == []
