"""The zygote and its launcher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from moorage_api.errors import AlreadyExists, DeadlineExceeded, Internal, InvalidArgument
from moorage_api.runtime import Status
from moorage_api.shim import Bootstrap, ShimLauncher, ShimRequest
from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim.launcher import ZygoteLauncher
from support.leftovers import cgroup_processes, mounts_below
from support.shim import Node, ShimClient, kill, name_of, until, workers

WORKSHOP = "moorage-worksho"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def exit_status(client: ShimClient, id: str) -> int:
    return int((await client.call("Wait", pb.WaitRequest(id=id))).exit_status)


def targets(proc: Path) -> set[str]:
    """What a process has open."""
    found = set()
    for fd in (proc / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(fd))
    return found


def commands_with(text: str) -> list[str]:
    """The command lines of all processes that have the text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command = path.read_bytes().decode(errors="replace")
            found += [command] if text in command else []
    return found


async def test_the_launcher_keeps_its_contract() -> None:
    assert isinstance(ZygoteLauncher(), ShimLauncher)


async def test_a_shim_stands_alone(crun_node: Node) -> None:
    crun_node.bundle("c", "/bin/true")
    await crun_node.shim("c")
    shim = crun_node.shims[0]
    path = Path(shim.address.removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    proc = Path(f"/proc/{shim.pid}")
    assert os.getpgid(shim.pid) == shim.pid
    assert os.getsid(shim.pid) == parent_of(shim.pid)
    assert (proc / "comm").read_text() == "moorage-shim\n"
    assert os.readlink(proc / "cwd") == "/"
    files = {"/dev/null", str(crun_node.bundles["c"] / "shim.log")}
    async with asyncio.timeout(10):
        while {target for target in targets(proc) if target.startswith("/")} != files:
            await asyncio.sleep(0.05)


async def test_a_dead_zygote_harms_nobody_and_is_replaced(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "60")
    zygote = parent_of(crun_node.shims[0].pid)
    assert Path(f"/proc/{zygote}/comm").read_text() == "moorage-zygote\n"
    kill(zygote)
    assert (await client.call("State", pb.StateRequest(id="c"))).pid
    second = await crun_node.task("d", "/bin/sleep", "60")
    assert (await second.call("State", pb.StateRequest(id="d"))).pid
    assert parent_of(crun_node.shims[1].pid) != zygote


def workshop_of(shim: int) -> list[int]:
    """The workshop where a shim gets its workers, with the spare worker that it has."""
    zygote = parent_of(shim)
    found = [pid for pid in children(zygote) if name_of(pid) == WORKSHOP]
    return [*found, *(spare for pid in found for spare in children(pid) if name_of(spare) == WORKSHOP)]


def spare_workers(daemon: int) -> list[int]:
    """Of all workshops below the zygotes of `daemon`."""
    zygotes = [pid for pid in children(daemon) if name_of(pid) == "moorage-zygote"]
    workshops = [pid for zygote in zygotes for pid in children(zygote) if name_of(pid) == WORKSHOP]
    return [spare for pid in workshops for spare in children(pid)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def rested(shim: int) -> None:
    await until(lambda: not workers(shim), 20)


async def test_all_code_is_compiled_before_the_zygote_starts(tmp_path: Path) -> None:
    """What compiles later would be slow, and write below the daemon's root while that may be on its way out."""
    launcher = ZygoteLauncher(cache=tmp_path / "pycache")
    await launcher.prepare()
    try:
        await until(lambda: spare_workers(os.getpid()), 20)
    finally:
        await launcher.close()
    compiled = (tmp_path / "pycache/stamp").stat().st_mtime_ns
    late = [path for path in (tmp_path / "pycache").rglob("*.pyc") if path.stat().st_mtime_ns > compiled]
    assert late == []


async def test_a_start_that_is_called_off_leaves_nobody_who_compiles(tmp_path: Path) -> None:
    launcher = ZygoteLauncher(cache=tmp_path / "pycache")
    before = children(os.getpid())
    starting = asyncio.create_task(launcher.prepare())
    await until(lambda: any((tmp_path / "pycache").rglob("*.pyc")), 20)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert set(children(os.getpid())) <= set(before)
    assert not (tmp_path / "pycache/stamp").exists()


async def test_a_zygote_without_shims_leaves_nobody(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    launcher = ZygoteLauncher(cache=cache)
    await launcher.prepare()
    await launcher.close()
    assert commands_with(str(cache)) == []


async def test_a_dead_workshop_harms_nobody_and_is_replaced(crun_node: Node) -> None:
    log = crun_node.folder / "log"
    client = await crun_node.task("c", "/bin/sh", "-c", "sleep 3; echo late; exit 4", stdout=f"cri://{log}")
    shim = crun_node.shims[0].pid
    await rested(shim)
    zygote, pids = parent_of(shim), workshop_of(shim)
    for pid in pids:
        kill(pid)
    # What rests gets its worker from a Python of its own.
    assert await exit_status(client, "c") == 4
    assert log.read_text().endswith("F late\n")
    await client.call("Delete", pb.DeleteRequest(id="c"))
    second = await crun_node.task("d", "/bin/sleep", "60")
    assert (await second.call("State", pb.StateRequest(id="d"))).pid
    await crun_node.task("e", "/bin/sleep", "60")
    assert parent_of(crun_node.shims[2].pid) != zygote


async def test_a_hung_workshop_is_not_waited_for(crun_node: Node) -> None:
    """When it goes on it finds that nobody waits for the worker any more."""
    client = await crun_node.task("c", "/bin/sleep", "60")
    shim = crun_node.shims[0].pid
    await rested(shim)
    # With the next spare worker, which would take the place of one that is stopped.
    await until(lambda: len(workshop_of(shim)) >= 2, 20)
    pids = workshop_of(shim)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        state = await client.call("State", pb.StateRequest(id="c"))
        assert state.status == Status.RUNNING
        (worker,) = workers(shim)
        assert parent_of(worker) == shim
        await client.call("Kill", pb.KillRequest(id="c", signal=9))
        assert await exit_status(client, "c") == 137
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await client.call("Delete", pb.DeleteRequest(id="c"))
    await until(lambda: len(workers(shim)) <= 1, 20)


async def test_the_zygote_ends_with_the_daemon_and_the_shims_do_not(crun_node: Node) -> None:
    """The workshop ends with the last shim that may need it."""
    client = await crun_node.task("c", "/bin/sleep", "60")
    shim = crun_node.shims[0].pid
    zygote, pids = parent_of(shim), workshop_of(shim)
    await rested(shim)
    await crun_node.launcher.close()
    assert not Path(f"/proc/{zygote}").exists()
    assert (await client.call("State", pb.StateRequest(id="c"))).pid
    assert any(Path(f"/proc/{pid}").exists() for pid in pids)
    kill(shim)
    async with asyncio.timeout(10):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.02)


async def test_a_hung_zygote_gives_an_error_in_time(crun_node: Node) -> None:
    """A spare that it had already forked still serves, for once."""
    launcher = ZygoteLauncher(start_timeout=7.0)
    for id in ("c", "d", "e"):
        crun_node.bundle(id, "/bin/true")
    crun_node.shims.append(await launcher.start(crun_node.request("c")))
    os.kill(parent_of(crun_node.shims[0].pid), signal.SIGSTOP)
    try:
        results = {}
        for id in ("d", "e"):
            [results[id]] = await asyncio.gather(launcher.start(crun_node.request(id)), return_exceptions=True)
        late = [id for id, result in results.items() if not isinstance(result, Bootstrap)]
        crun_node.shims += [result for result in results.values() if isinstance(result, Bootstrap)]
        assert [type(results[id]) for id in late] == [DeadlineExceeded]
        crun_node.shims.append(await launcher.start(crun_node.request(late[0])))
    finally:
        await launcher.close()


async def test_what_can_not_be_started(crun_node: Node) -> None:
    crun_node.bundle("c", "/bin/true")
    await crun_node.shim("c")
    with pytest.raises(AlreadyExists, match="listens"):
        await crun_node.launcher.start(crun_node.request("c"))
    request = crun_node.request("c")
    too_long = ShimRequest(
        "c", "testing", request.bundle, "", "", socket_dir=crun_node.folder / ("x" * 100), debug=False
    )
    with pytest.raises(InvalidArgument, match="107 bytes"):
        await crun_node.launcher.start(too_long)
    (crun_node.folder / "file").touch()
    not_a_folder = ShimRequest("c", "testing", request.bundle, "", "", socket_dir=crun_node.folder / "file")
    with pytest.raises(Internal, match="shim was not started"):
        await crun_node.launcher.start(not_a_folder)


async def test_the_socket_of_a_dead_shim_is_replaced(crun_node: Node) -> None:
    crun_node.bundle("c", "/bin/true")
    await crun_node.shim("c")
    kill(crun_node.shims[0].pid)
    await crun_node.shim("c")
    assert crun_node.shims[0].address == crun_node.shims[1].address
    assert crun_node.shims[0].pid != crun_node.shims[1].pid


async def test_a_shim_starts_quickly(crun_node: Node) -> None:
    for i in range(10):
        crun_node.bundle(f"c{i}", "/bin/true")
    await crun_node.shim("c0")
    times = []
    for i in range(1, 10):
        started = time.perf_counter()
        await crun_node.shim(f"c{i}")
        times.append(time.perf_counter() - started)
    assert sorted(times)[4] < 0.1


async def test_delete_after_a_dead_shim(node: Node) -> None:
    """What the shim left behind goes: processes, the runtime's state, mounts, control groups."""
    for name in ("lower", "upper", "work"):
        (node.folder / name).mkdir()
    from support.shim import busybox_rootfs

    busybox_rootfs(node.folder / "lower")
    node.bundle("c", "/bin/sh", "-c", "sleep 600 & sleep 600", rootfs=False)
    client = await node.shim("c")
    request = node.create("c")
    options = [f"{key}dir={node.folder}/{key}" for key in ("lower", "upper", "work")]
    request.rootfs.add(type="overlay", source="overlay", options=options)
    pid = (await client.call("Create", request)).pid
    await client.call("Start", pb.StartRequest(id="c"))
    kill(node.shims[0].pid)
    ended = await node.launcher.delete(node.request("c"))
    assert (ended.status, ended.pid) == (137, pid)
    assert abs(ended.at - time.time_ns()) < 60e9
    assert cgroup_processes(node.cgroup) == set()
    assert mounts_below(node.folder) == []
    assert list((node.folder / "oci/testing").iterdir()) == []
    again = await node.launcher.delete(node.request("c"))
    assert again.status == 137


async def test_delete_tells_the_exit_that_was_recorded(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sh", "-c", "exit 9")
    await client.call("Wait", pb.WaitRequest(id="c"))
    kill(crun_node.shims[0].pid)
    assert (await crun_node.launcher.delete(crun_node.request("c"))).status == 9


async def test_events_wait_for_the_daemon(crun_node: Node) -> None:
    await crun_node.daemon.stop()
    client = await crun_node.task("c", "/bin/sh", "-c", "exit 3")
    await client.call("Wait", pb.WaitRequest(id="c"))
    await asyncio.sleep(0.3)
    await crun_node.daemon.start()
    assert (await crun_node.daemon.event("/tasks/exit")).exit_status == 3
    assert crun_node.daemon.topics == ["/tasks/create", "/tasks/start", "/tasks/exit"]
    await crun_node.daemon.stop()
    await crun_node.daemon.start()
    await client.call("Delete", pb.DeleteRequest(id="c"))
    await crun_node.daemon.event("/tasks/delete")


async def test_a_client_that_breaks_the_protocol_disturbs_nobody(crun_node: Node) -> None:
    client = await crun_node.task("c", "/bin/sleep", "60")
    reader, writer = await asyncio.open_unix_connection(crun_node.shims[0].address.removeprefix("unix://"))
    writer.write(b"\0\0\0\0\0\0\0\1\x09\0")
    assert await reader.read() == b""
    writer.close()
    other = await ShimClient.connect(crun_node.shims[0].address)
    assert (await other.call("State", pb.StateRequest(id="c"))).pid
    assert (await client.call("State", pb.StateRequest(id="c"))).pid
    await other.close()
