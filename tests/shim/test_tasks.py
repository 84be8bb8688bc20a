"""The task service with real OCI runtimes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from moorage_api import ttrpc
from moorage_api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MoorageError,
    NotFound,
    Unimplemented,
)
from moorage_api.runtime import Status
from moorage_api.wire import cgroups_v1_pb2
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_api.wire.runc_options_pb2 import ProcessDetails
from support.leftovers import cgroup_processes, cgroups, mounts_below
from support.shim import NAMESPACE, Node, ShimClient


async def wait(client: ShimClient, id: str, exec_id: str = "") -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id, exec_id=exec_id))).exit_status)


async def state(client: ShimClient, id: str, exec_id: str = "") -> pb.StateResponse:
    answer: pb.StateResponse = await client.call("State", pb.StateRequest(id=id, exec_id=exec_id))
    return answer


def running(program: str) -> str:
    """The command lines that begin with a script."""
    found = subprocess.run(["pgrep", "-af", f"^/bin/sh {program}"], capture_output=True, text=True, check=False)
    return found.stdout


def kept(node: Node) -> list[str]:
    """What the runtime keeps of containers: its own folders, and their control groups."""
    states = node.folder / "oci" / NAMESPACE
    found = [str(path) for path in states.iterdir()] if states.is_dir() else []
    return found + [str(path) for path in cgroups(node.cgroup) if path.name != node.cgroup]


async def test_nothing_is_kept_of_a_deleted_task(node: Node) -> None:
    client = await node.task("c", "/bin/sh", "-c", "true")
    assert await wait(client, "c") == 0
    assert kept(node) != []
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert kept(node) == []


async def test_hooks_after_the_end_are_run(node: Node, tmp_path: Path) -> None:
    bundle = node.bundle("c", "/bin/sh", "-c", "true")
    spec = json.loads((bundle / "config.json").read_text())
    spec["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/told"]}]}
    (bundle / "config.json").write_text(json.dumps(spec))
    client = await node.shim("c")
    await client.call("Create", node.create("c"))
    await client.call("Start", pb.StartRequest(id="c"))
    await wait(client, "c")
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert json.loads((tmp_path / "told").read_text())["id"] == "c"
    assert kept(node) == []


async def test_a_life(node: Node) -> None:
    bundle = node.bundle("c", "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    client = await node.shim("c")
    log = f"cri://{bundle}/log"
    pid = (await client.call("Create", node.create("c", stdout=log, stderr=log))).pid
    assert (await state(client, "c")).status == Status.CREATED
    assert Path(f"/proc/{pid}").exists()
    assert (await client.call("Start", pb.StartRequest(id="c"))).pid == pid
    assert await wait(client, "c") == 7
    seen = await state(client, "c")
    assert (seen.status, seen.exit_status, seen.pid) == (Status.STOPPED, 7, pid)
    assert abs(seen.exited_at.ToNanoseconds() - time.time_ns()) < 20e9
    deleted = await client.call("Delete", pb.DeleteRequest(id="c"))
    assert (deleted.exit_status, deleted.pid) == (7, pid)
    lines = (bundle / "log").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out"]
    with pytest.raises(NotFound):
        await state(client, "c")
    await node.daemon.event("/tasks/delete")
    assert node.daemon.topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    record = json.loads((bundle / "exit.json").read_text())
    assert (record["status"], record["pid"], record["oom_killed"]) == (7, pid, False)


async def test_shutdown_ends_the_shim_only_when_it_is_empty(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "60")
    await client.call("Shutdown", pb.ShutdownRequest(id="c"))
    assert (await state(client, "c")).status == Status.RUNNING
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    assert await wait(client, "c") == 137
    await client.call("Delete", pb.DeleteRequest(id="c"))
    await client.call("Shutdown", pb.ShutdownRequest(id="c"))
    shim = crun_node.shims[0]
    async with asyncio.timeout(10):
        while Path(f"/proc/{shim.pid}").exists():
            await asyncio.sleep(0.02)
    assert not Path(shim.address.removeprefix("unix://")).exists()


async def test_version_2_is_the_same(crun_node: Node) -> None:
    crun_node.bundle("c", "/bin/sleep", "60")
    client = await crun_node.shim("c")
    answer = await client.raw("containerd.task.v2.Task", "Connect", pb.ConnectRequest(id="c").SerializeToString())
    assert pb.ConnectResponse.FromString(answer).shim_pid == crun_node.shims[0].pid
    with pytest.raises(Unimplemented):
        await client.raw("containerd.task.v2.Task", "Nonsense", b"")
    with pytest.raises(InvalidArgument):
        await client.raw("containerd.task.v2.Task", "Connect", b"\xff")


async def test_exec(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    out = node.folder / "exec.log"
    await node.exec(client, "c", "e1", "/bin/sh", "-c", "hostname; exit 3", stdout=f"file://{out}")
    assert await wait(client, "c", "e1") == 3
    assert out.read_text() == "box\n"
    deleted = await client.call("Delete", pb.DeleteRequest(id="c", exec_id="e1"))
    assert deleted.exit_status == 3
    with pytest.raises(NotFound, match="e1"):
        await state(client, "c", "e1")
    exit_event = await node.daemon.event("/tasks/exit", id="e1")
    assert exit_event.exit_status == 3
    assert (await state(client, "c")).status == Status.RUNNING


async def test_many_execs_at_once(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "60")
    await asyncio.gather(*(crun_node.exec(client, "c", f"e{i}", "/bin/sh", "-c", f"exit {i}") for i in range(8)))
    assert await asyncio.gather(*(wait(client, "c", f"e{i}") for i in range(8))) == list(range(8))


async def test_the_first_process_exits_last(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    await node.exec(client, "c", "e1", "/bin/sleep", "60")
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    assert await wait(client, "c") == 137
    assert await wait(client, "c", "e1") == 137
    exits = [event.id for topic, event in node.daemon.events if topic == "/tasks/exit"]  # type: ignore[attr-defined]
    await node.daemon.event("/tasks/exit", id="c")
    assert exits in (["e1", "c"], ["e1"])


async def test_stragglers_die_with_the_first_process(node: Node) -> None:
    """In the host's PID namespace nothing but the shim ends them."""
    command = "sleep 600 & sleep 600 & sleep 0.2"
    node.bundle("c", "/bin/sh", "-c", command, linux={"namespaces": [{"type": "mount"}]})
    client = await node.shim("c")
    await client.call("Create", node.create("c"))
    await client.call("Start", pb.StartRequest(id="c"))
    assert await wait(client, "c") == 0
    async with asyncio.timeout(5):
        while cgroup_processes(node.cgroup):
            await asyncio.sleep(0.02)


async def test_kill(node: Node) -> None:
    client = await node.task("c", "/bin/sh", "-c", "trap 'exit 5' TERM; while true; do sleep 0.05; done")
    await asyncio.sleep(0.2)
    await client.call("Kill", pb.KillRequest(id="c", signal=signal.SIGTERM))
    assert await wait(client, "c") == 5
    with pytest.raises(NotFound, match="already finished"):
        await client.call("Kill", pb.KillRequest(id="c", signal=9))


async def test_kill_all(node: Node) -> None:
    client = await node.task("c", "/bin/sh", "-c", "sleep 600 & wait; sleep 600")
    async with asyncio.timeout(20):
        while len((await client.call("Pids", pb.PidsRequest(id="c"))).processes) != 2:
            await asyncio.sleep(0.02)
    await client.call("Kill", pb.KillRequest(id="c", signal=9, all=True))
    assert await wait(client, "c") == 137


async def test_pause_and_resume(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    await client.call("Pause", pb.PauseRequest(id="c"))
    assert (await state(client, "c")).status == Status.PAUSED
    with pytest.raises(FailedPrecondition, match="cannot pause a paused"):
        await client.call("Pause", pb.PauseRequest(id="c"))
    await client.call("Resume", pb.ResumeRequest(id="c"))
    assert (await state(client, "c")).status == Status.RUNNING
    await client.call("Pause", pb.PauseRequest(id="c"))
    await client.call("Kill", pb.KillRequest(id="c", signal=9))
    assert await wait(client, "c") == 137
    await client.call("Delete", pb.DeleteRequest(id="c"))
    await node.daemon.event("/tasks/delete")
    assert [topic for topic in node.daemon.topics if "paus" in topic or "resum" in topic] == [
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/paused",
    ]


async def test_wrong_moments(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    with pytest.raises(FailedPrecondition, match="cannot delete a running process"):
        await client.call("Delete", pb.DeleteRequest(id="c"))
    with pytest.raises(FailedPrecondition, match="cannot start a running process"):
        await client.call("Start", pb.StartRequest(id="c"))
    with pytest.raises(AlreadyExists):
        await client.call("Create", node.create("c"))
    with pytest.raises(NotFound):
        await client.call("Start", pb.StartRequest(id="other"))
    with pytest.raises(Unimplemented, match="criu"):
        await client.call("Checkpoint", pb.CheckpointTaskRequest(id="c", path="/nowhere"))
    with pytest.raises(InvalidArgument, match="exec id"):
        await client.call("Exec", pb.ExecProcessRequest(id="c", exec_id="../x"))
    await client.call("Exec", pb.ExecProcessRequest(id="c", exec_id="e", spec=AnyMessage(value=b"{}")))
    with pytest.raises(AlreadyExists):
        await client.call("Exec", pb.ExecProcessRequest(id="c", exec_id="e"))
    with pytest.raises(FailedPrecondition, match="process not created"):
        await client.call("Kill", pb.KillRequest(id="c", exec_id="e", signal=9))
    await client.call("Delete", pb.DeleteRequest(id="c", exec_id="e"))


async def test_a_failed_create_leaves_nothing(node: Node) -> None:
    bundle = node.bundle("c", "/no/such/program", rootfs=False)
    lower = node.folder / "lower"
    lower.mkdir()
    client = await node.shim("c")
    request = node.create("c", stdout=f"cri://{bundle}/log")
    request.rootfs.add(type="bind", source=str(lower), options=["rbind", "ro"])
    with pytest.raises(MoorageError, match=r"OCI runtime create failed: .+") as caught:
        await client.call("Create", request)
    assert "exit status" not in caught.value.message
    assert mounts_below(node.folder) == []
    assert cgroup_processes(node.cgroup) == set()
    with pytest.raises(NotFound):
        await state(client, "c")
    root = node.folder / "oci" / NAMESPACE
    assert not root.exists() or list(root.iterdir()) == []
    assert node.daemon.events == []


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"stdout": "cri:///no/such/folder/log"}, NotFound, "folder does not exist"),
        ({"stdout": "/no/such/fifo"}, NotFound, "/no/such/fifo"),
        ({"stdout": "ftp://x"}, InvalidArgument, "unknown scheme"),
        ({"stdout": "binary:///no/such/program"}, FailedPrecondition, "/no/such/program"),
        ({"bundle": "/no/such/bundle"}, InvalidArgument, "bundle"),
        ({"id": "../c"}, InvalidArgument, "container id"),
        ({"options": AnyMessage(type_url="what.ever")}, InvalidArgument, "what.ever"),
        ({"checkpoint": "/x"}, Unimplemented, "criu"),
    ],
)
async def test_a_wrong_request(
    crun_node: Node, fields: dict[str, object], error: type[MoorageError], says: str
) -> None:
    crun_node.bundle("c", "/bin/sleep", "60")
    client = await crun_node.shim("c")
    request = crun_node.create("c")
    for key, value in fields.items():
        if isinstance(value, str):
            setattr(request, key, value)
        else:
            request.options.CopyFrom(value)  # type: ignore[arg-type]
    with pytest.raises(error, match=says):
        await client.call("Create", request)
    await client.call("Create", crun_node.create("c"))


async def test_rootfs_is_mounted_and_unmounted(node: Node) -> None:
    from support.shim import busybox_rootfs

    node.bundle("c", "/bin/sh", "-c", "echo x > /written", rootfs=False)
    for name in ("lower", "upper", "work"):
        (node.folder / name).mkdir()
    busybox_rootfs(node.folder / "lower")
    client = await node.shim("c")
    request = node.create("c")
    options = [f"{key}dir={node.folder}/{key}" for key in ("lower", "upper", "work")]
    request.rootfs.add(type="overlay", source="overlay", options=options)
    await client.call("Create", request)
    assert len(mounts_below(node.folder)) == 1
    await client.call("Start", pb.StartRequest(id="c"))
    assert await wait(client, "c") == 0
    await client.call("Delete", pb.DeleteRequest(id="c"))
    assert mounts_below(node.folder) == []
    assert (node.folder / "upper/written").read_text() == "x\n"


async def test_stats_and_pids(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    pid = await node.exec(client, "c", "e1", "/bin/sleep", "60")
    processes = (await client.call("Pids", pb.PidsRequest(id="c"))).processes
    details = {process.pid: ProcessDetails.FromString(process.info.value).exec_id for process in processes}
    assert details[pid] == "e1"
    assert sorted(details.values()) == ["", "e1"]
    async with asyncio.timeout(30):
        while True:
            stats = (await client.call("Stats", pb.StatsRequest(id="c"))).stats
            assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
            metrics = cgroups_v1_pb2.Metrics.FromString(stats.value)
            # Until runc's process has become the program it has threads, and they count.
            if metrics.pids.current == 2:
                break
            await asyncio.sleep(0.01)
    assert metrics.memory.usage.usage > 0
    assert metrics.cpu.usage.total > 0


async def test_update(node: Node) -> None:
    client = await node.task("c", "/bin/sleep", "60")
    resources = AnyMessage(value=json.dumps({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}}).encode())
    await client.call("Update", pb.UpdateTaskRequest(id="c", resources=resources))
    stats = (await client.call("Stats", pb.StatsRequest(id="c"))).stats
    metrics = cgroups_v1_pb2.Metrics.FromString(stats.value)
    assert metrics.memory.usage.limit == 64 << 20
    assert metrics.pids.limit == 77


async def test_out_of_memory(node: Node) -> None:
    memory = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    bundle = node.bundle("c", "/bin/sh", "-c", "tail /dev/zero", linux={"resources": memory})
    config = json.loads((bundle / "config.json").read_text())
    config["mounts"].append({"destination": "/dev/zero", "type": "bind", "source": "/dev/zero", "options": ["bind"]})
    (bundle / "config.json").write_text(json.dumps(config))
    client = await node.shim("c")
    await client.call("Create", node.create("c"))
    await client.call("Start", pb.StartRequest(id="c"))
    assert await wait(client, "c") == 137
    await node.daemon.event("/tasks/exit")
    assert node.daemon.topics.index("/tasks/oom") < node.daemon.topics.index("/tasks/exit")
    assert json.loads((bundle / "exit.json").read_text())["oom_killed"] is True


async def test_the_shim_answers_while_the_runtime_hangs(crun_node: Node, tmp_path: Path) -> None:
    """A runtime that hangs is killed at its caller's deadline, and all is undone."""
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\ncase "$*" in *\' create \'*) sleep 600;; esac\nexec crun "$@"\n')
    slow.chmod(0o755)
    crun_node.runtime = str(slow)
    crun_node.bundle("c", "/bin/sleep", "60")
    client = await crun_node.shim("c")
    reader, writer = await asyncio.open_unix_connection(crun_node.shims[0].address.removeprefix("unix://"))
    protocol = ttrpc.Client()
    _, data = protocol.call("containerd.task.v3.Task", "Create", crun_node.create("c").SerializeToString(), timeout=1.0)
    writer.write(data)
    started = time.monotonic()
    for _ in range(10):
        await client.call("Connect", pb.ConnectRequest(id="c"))
    assert time.monotonic() - started < 0.5
    (event,) = protocol.receive(await asyncio.wait_for(reader.read(65536), 10))
    assert isinstance(event, ttrpc.ResponseReceived)
    assert event.error is not None
    assert "it was killed" in event.error.message
    writer.close()
    assert str(crun_node.folder) not in running(str(slow))


async def test_limits_that_are_not_allowed_are_clamped(node: Node) -> None:
    limits = {"oomScoreAdj": -900, "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1 << 30, "soft": 1 << 30}]}
    node.bundle("c", "/bin/sleep", "60", process=limits)
    client = await node.shim("c")
    pid = (await client.call("Create", node.create("c"))).pid
    await client.call("Start", pb.StartRequest(id="c"))
    allowed = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) in (-900, max(0, allowed))
    assert await node.exec(client, "c", "e1", "/bin/sleep", "60")


@pytest.mark.parametrize(("news", "version"), [({}, "1.0.2"), ({"domainname": "example"}, "1.9.0")])
async def test_a_version_that_nothing_needs_is_lowered(node: Node, news: dict[str, str], version: str) -> None:
    """Newer clients name the newest version that they know, which older runtimes refuse."""
    path = node.bundle("c", "/bin/sleep", "60") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ociVersion": "1.9.0"} | news))
    client = await node.shim("c")
    with suppress(MoorageError) if news else nullcontext():  # some runtimes are content with a version beyond their own
        await client.call("Create", node.create("c"))
    assert json.loads(path.read_text())["ociVersion"] == version
