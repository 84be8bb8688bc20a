"""`containerd-shim-moorage-v2`: the command line, and a stock containerd that uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_api.errors import InvalidArgument
from moorage_api.wire.bootstrap_pb2 import BootstrapParams, BootstrapResult
from moorage_api.wire.shim_v3_pb2 import DeleteResponse
from moorage_api.wire.types_pb2 import RuntimeInfo
from moorage_shim.__main__ import parse_arguments
from support.leftovers import mounts_below, sweep
from support.shim import busybox_rootfs, kill, name_of

COMMAND = Path(sys.executable).parent / "containerd-shim-moorage-v2"
SHIM = [str(COMMAND), "-namespace", "testing", "-address", "/nowhere.sock"]


def processes(word: str) -> list[int]:
    """The shims whose command line has a word."""
    found = subprocess.run(["pgrep", "-f", f"containerd-shim-moorage-v2.*{word}"], capture_output=True, check=False)
    return [int(pid) for pid in found.stdout.split() if name_of(int(pid)) == "moorage-shim"]


@pytest.mark.parametrize(
    ("words", "action", "values"),
    [
        (["-namespace", "ns", "-id", "x", "-debug", "start"], "start", {"namespace": "ns", "id": "x", "debug": True}),
        (["--namespace=ns", "-debug=false", "-publish-binary", "b", "delete"], "delete", {"debug": False}),
        (["-v"], "", {"version": True}),
        (["-info"], "", {"info": True}),
    ],
)
def test_flags(words: list[str], action: str, values: dict[str, object]) -> None:
    arguments = parse_arguments(words)
    assert arguments.action == action
    assert {key: getattr(arguments, key) for key in values} == values


def test_unknown_flag() -> None:
    with pytest.raises(InvalidArgument, match="-nonsense"):
        parse_arguments(["-nonsense"])


def test_version_and_info() -> None:
    out = subprocess.run([str(COMMAND), "-v"], capture_output=True, text=True, check=True).stdout
    assert "containerd-shim-moorage-v2" in out
    data = subprocess.run([str(COMMAND), "-info"], input=b"", capture_output=True, check=True).stdout
    info = RuntimeInfo.FromString(data)
    assert info.name == "io.containerd.moorage.v2"
    assert os.access(info.annotations["moorage.io/oci-runtime"], os.X_OK)


def test_errors_are_told() -> None:
    for words in (["start"], ["-namespace", "x", "dance"]):
        run = subprocess.run([str(COMMAND), *words], capture_output=True, text=True, check=False, input="")
        assert run.returncode == 1
        assert "io.containerd.moorage.v2:" in run.stderr


def bundle(folder: Path, id: str, annotations: dict[str, str]) -> Path:
    path = folder / "io.containerd.runtime.v2.task/testing" / id
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"annotations": annotations}))
    return path


def start(path: Path, environment: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    environ = {key: value for key, value in os.environ.items() if key != "MAX_SHIM_VERSION"} | (environment or {})
    command = [*SHIM, "-id", path.name, "start"]
    return subprocess.run(command, cwd=path, env=environ, input=stdin, capture_output=True, check=True).stdout


def test_how_start_answers(short_tmp: Path) -> None:
    """Containers of a pod share a shim; each generation of containerd gets the answer that it reads."""
    pod = {"io.kubernetes.cri.sandbox-id": "pod"}
    first, second, alone = (bundle(short_tmp, id, pod if id != "alone" else {}) for id in ("pod", "c1", "alone"))
    try:
        address = start(first).decode()
        assert address.startswith(f"unix://{short_tmp}/s/")
        assert (first / "address").read_text() == address
        assert json.loads(start(second, {"MAX_SHIM_VERSION": "2"})) == {
            "version": 2,
            "address": address,
            "protocol": "ttrpc",
        }
        params = BootstrapParams(instance_id="c1", namespace="testing", socket_dir="")
        result = BootstrapResult.FromString(start(second, stdin=params.SerializeToString()))
        assert (result.version, result.address, result.protocol) == (3, address, "ttrpc")
        other = start(alone).decode()
        assert other != address
        assert len(processes("testing")) >= 2
    finally:
        for pid in processes("-id (pod|alone) start"):
            kill(pid)


def test_delete_without_anything(short_tmp: Path) -> None:
    path = bundle(short_tmp, "c", {})
    command = [*SHIM, "-id", "c", "-bundle", str(path), "delete"]
    data = subprocess.run(command, cwd=path, capture_output=True, check=True).stdout
    answer = DeleteResponse.FromString(data)
    assert answer.exit_status == 137
    assert abs(answer.exited_at.ToNanoseconds() - time.time_ns()) < 60e9


class Containerd:
    """Debian's containerd on private folders, with our shim on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = folder / "c.sock"
        (folder / "config.toml").write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.address}"\n'
        )
        path = f"{COMMAND.parent}:{os.environ['PATH']}"
        self.tag = f"MOORAGE_SHIM_TEST={folder.name}"
        name, value = self.tag.split("=")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["containerd", "-c", str(folder / "config.toml")],
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": path, name: value},
            )
        deadline = time.monotonic() + 20
        while self.ctr("version", check=False).returncode and time.monotonic() < deadline:
            time.sleep(0.05)

    def ctr(self, *words: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", str(self.address), *words]
        run = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert not check or run.returncode == 0, (words, run.stderr, (self.folder / "log").read_text()[-2000:])
        return run

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def containerd(short_tmp: Path) -> Iterator[Containerd]:
    busybox_rootfs(short_tmp / "rootfs")
    running = Containerd(short_tmp)
    yield running
    running.stop()
    sweep(short_tmp, running.tag, short_tmp.name)
    assert mounts_below(short_tmp) == []


def test_a_stock_containerd_runs_our_shim(containerd: Containerd) -> None:
    parent = containerd.folder.name
    run = ("run", "--runtime", "io.containerd.moorage.v2", "--cgroup", f"/{parent}/c", "--rootfs")
    rootfs = str(containerd.folder / "rootfs")
    out = containerd.ctr(*run, "--rm", rootfs, "once", "/bin/sh", "-c", "echo hello; exit 3", check=False)
    assert (out.stdout, out.returncode) == ("hello\n", 3)
    containerd.ctr(*run, "-d", rootfs, "c", "/bin/sleep", "600")
    assert "RUNNING" in containerd.ctr("tasks", "ls").stdout
    executed = containerd.ctr("tasks", "exec", "--exec-id", "e", "c", "/bin/sh", "-c", "echo in; exit 4", check=False)
    assert (executed.stdout, executed.returncode) == ("in\n", 4)
    terminal = ["script", "-qec", f"ctr -a {containerd.address} t exec -t --exec-id t c /bin/stty size", "/dev/null"]
    out_terminal = subprocess.run(
        terminal, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    assert out_terminal.returncode == 0, out_terminal
    assert containerd.ctr("tasks", "metrics", "c").stdout
    containerd.ctr("tasks", "pause", "c")
    containerd.ctr("tasks", "resume", "c")
    containerd.ctr("tasks", "kill", "-s", "KILL", "c")
    deadline = time.monotonic() + 10
    while "STOPPED" not in containerd.ctr("tasks", "ls").stdout and time.monotonic() < deadline:
        time.sleep(0.05)
    containerd.ctr("tasks", "rm", "c", check=False)
    containerd.ctr("containers", "rm", "c")
    assert processes(str(containerd.address)) == []


def test_a_stock_containerd_cleans_up_after_our_dead_shim(containerd: Containerd) -> None:
    parent = containerd.folder.name
    run = ("run", "--runtime", "io.containerd.moorage.v2", "--cgroup", f"/{parent}/c", "--rootfs", "-d")
    containerd.ctr(*run, str(containerd.folder / "rootfs"), "c", "/bin/sleep", "600")
    (shim,) = processes(str(containerd.address))
    kill(shim)
    deadline = time.monotonic() + 15
    while "RUNNING" in containerd.ctr("tasks", "ls").stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    containerd.ctr("tasks", "rm", "-f", "c", check=False)
    containerd.ctr("containers", "rm", "c")
    state = containerd.folder / "state/oci/default"
    while list(state.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(state.iterdir()) == [], (containerd.folder / "log").read_text()[-3000:]
