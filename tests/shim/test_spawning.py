"""Programs that are started quickly: as others are, and no less bound to their shim."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moorage_api.wire import shim_v3_pb2 as pb
from moorage_shim import processes, spawning
from moorage_shim.keeper import EXIT, SPAWNED
from moorage_shim.loop import Future, Loop
from moorage_shim.processes import Command, Ended, Forker, Reaper, status_of
from moorage_shim.rest import KeeperLink
from support.shim import Node, ShimClient, kill, process_spec, workers

SPAWN = """
import posix, sys
sys.path.append(sys.argv[1])
from moorage_shim.spawning import spawn
output, error = posix.pipe(), posix.pipe()
program = (sys.argv[2], ("it", *sys.argv[3:]), "/usr", None, (1,), False, False, False, 300, True)
pid = spawn(program, [output[1], error[1]])
posix.close(output[1])
posix.close(error[1])
posix.waitpid(pid, 0)
print(posix.read(output[0], 4096).decode(), posix.read(error[0], 4096).decode(), posix.getcwd())
print(open("/proc/self/oom_score_adj").read())
"""


def spawned(program: str, *arguments: str) -> tuple[str, int]:
    """What a program wrote that was started quickly by a process that does nothing else, or why it could not be started; and
    the OOM score that is left to the process."""
    folder = str(Path(spawning.__file__).parent.parent)
    command = [sys.executable, "-I", "-S", "-c", SPAWN, folder, program, *arguments]
    *words, score = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return " ".join(words), int(score)


def test_a_program_has_its_folder_and_its_score() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert spawned("/bin/sh", "-c", "pwd; cat /proc/self/oom_score_adj") == ("/usr 300 /", own)


def test_one_that_can_not_be_started_is_told() -> None:
    text, _ = spawned("/no/program")
    assert text.startswith("/no/program: [Errno 2]")


@pytest.fixture
def lingering(tmp_path: Path) -> Path:
    """An OCI runtime that stays when it is to add a process, whatever it is told; its pid is in `pid` then."""
    script = tmp_path / "crun"
    linger = f'echo $$ > "{tmp_path}/draft"; mv "{tmp_path}/draft" "{tmp_path}/pid"; exec sleep 600'
    script.write_text(f'#!/bin/sh\ncase " $* " in *" exec "*) {linger};; esac\nexec {shutil.which("crun")} "$@"\n')
    script.chmod(0o755)
    return script


async def added(node: Node, runtime: Path) -> tuple[ShimClient, int]:
    """A container to which that runtime is about to add a process; with the runtime's pid."""
    node.runtime = str(runtime)
    client = await node.task("c", "/bin/sleep", "600")
    request = pb.ExecProcessRequest(id="c", exec_id="e", stdout="/nowhere")
    request.spec.value = json.dumps(process_spec(["/bin/id"])).encode()
    await client.call("Exec", request)
    told = runtime.parent / "pid"
    async with asyncio.timeout(30):
        while not told.exists():
            await asyncio.sleep(0.01)
    return client, int(told.read_text())


async def test_a_runtime_has_what_it_is_given_and_nothing_else(crun_node: Node, lingering: Path) -> None:
    _, pid = await added(crun_node, lingering)
    process = Path(f"/proc/{pid}")
    fds = {int(link.name): os.readlink(link) for link in (process / "fd").iterdir()}
    assert sorted(fds) == [0, 1, 2]
    assert (fds[0], fds[2]) == ("/dev/null", "/dev/null")
    assert fds[1].startswith("pipe:")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert int(status["PPid"]) == crun_node.shims[0].pid
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0
    assert os.getpgid(pid) == pid != os.getsid(pid)
    assert os.readlink(process / "cwd") == str(crun_node.bundles["c"])


@pytest.mark.parametrize("victim", ["keeper", "worker"])
async def test_a_runtime_dies_with_its_shim(crun_node: Node, lingering: Path, victim: str) -> None:
    client, pid = await added(crun_node, lingering)
    shim = crun_node.shims[0].pid
    # Answered behind what the keeper has told of the runtime.
    await client.call("Connect", pb.ConnectRequest(id="c"))
    (worker,) = workers(shim)
    kill(shim if victim == "keeper" else worker)
    async with asyncio.timeout(30):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("end", "expected"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_status_of_who_is_not_reaped_yet(end: str, expected: int) -> None:
    process = subprocess.Popen(["sh", "-c", end])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert status_of(process.pid) == expected
    process.wait()
    assert status_of(process.pid) is None
    assert status_of(os.getpid()) is None


class _Told(Reaper):
    """A reaper of nobody's children, which knows what it is told."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting = {}
        self._strangers = {}
        self._launches = 0
        self._looking = {}
        self._seen = set()


@pytest.mark.parametrize("visible", [True, False])
def test_an_end_is_told_once_by_the_kernel_or_by_the_keeper(visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    reaper = _Told(loop)
    looked: Future[None] = Future(loop)

    def status(pid: int) -> int | None:
        looked.set(None)
        return status_of(pid) if visible else None

    monkeypatch.setattr(processes, "status_of", status)
    with subprocess.Popen(["sh", "-c", "exit 7"]) as process, reaper.launching():
        end = reaper.watch(process.pid, adopted=True)
        reaper.look(process.pid)
        loop.run(looked)
        assert end.done is visible
        assert not reaper._looking
        reaper.ended(process.pid, Ended(7, 1))
        assert loop.run(end).status == 7
        assert (end.result().at == 1) is not visible
        assert not reaper._strangers
        reaper.look(process.pid)
        assert not reaper._looking


def test_an_end_that_the_keeper_tells_before_the_kernel() -> None:
    loop = Loop()
    reaper = _Told(loop)
    channel, keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forker = Forker(loop, reaper)
    link = forker.keeper = KeeperLink(channel, loop, reaper)
    with channel, keeper, subprocess.Popen(["sleep", "600"]) as process:
        try:
            begun: Future[None] = loop.future()
            command = Command(["/bin/true"], orphans=True, quick=True)
            run = loop.spawn(forker.run(command, 30, "true", lambda: begun.set(None)), "run", eager=True)
            keeper.send(SPAWNED.pack(1, process.pid, 0))
            loop.run(begun)
            link.tell([EXIT.pack(0, process.pid, 7 << 8, 0)])
            assert loop.run(run) == 7
        finally:
            process.kill()
