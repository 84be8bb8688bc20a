"""`ctr run` and `ctr tasks` of Debian's `ctr` (1.6): flags, terminals, standard streams, checkpoints."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

from support import criu
from support.ctr import Ctr, lines
from support.terminal import wait_until


class TestRun:
    """One container after another, each removed by `--rm`."""

    def test_mounts(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("data\n")
        mount = f"type=bind,src={tmp_path},dst=/vol,options=rbind:ro"
        done = ctr.once("--mount", mount, pulled, "mounts", "sh", "-c", "cat /vol/x; echo >/vol/y")
        assert (done.returncode, done.stdout) == (1, "data\n")
        assert "Read-only file system" in done.stderr
        assert not (tmp_path / "y").exists()

    def test_environment_and_folder(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        (tmp_path / "env").write_text("B=file\n")
        flags = ["--env", "A=flag", "--env-file", str(tmp_path / "env"), "--cwd", "/var"]
        done = ctr.once(*flags, pulled, "env", "sh", "-c", "echo $A $B; pwd")
        assert done.stdout == "flag file\n/var\n"

    def test_read_only(self, ctr: Ctr, pulled: str) -> None:
        done = ctr.once("--read-only", pulled, "ro", "touch", "/x")
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr

    def test_the_network_of_the_host(self, ctr: Ctr, pulled: str) -> None:
        own = ctr.once(pulled, "own-net", "ls", "/sys/class/net").stdout.split()
        assert own == ["lo"]
        hosts = ctr.once("--net-host", pulled, "host-net", "ls", "/sys/class/net").stdout.split()
        assert sorted(hosts) == sorted(entry.name for entry in Path("/sys/class/net").iterdir())

    def test_privileges(self, ctr: Ctr, pulled: str) -> None:
        def effective(*flags: str) -> int:
            done = ctr.once(*flags, pulled, "caps", "grep", "CapEff", "/proc/self/status")
            return int(done.stdout.split()[1], 16)

        ordinary = effective()
        assert effective("--cap-add", "CAP_SYS_TIME") == ordinary | 1 << 25
        assert effective("--cap-drop", "CAP_CHOWN") == ordinary & ~1
        assert effective("--privileged") & ordinary == ordinary
        done = ctr.once("--seccomp", pulled, "filtered", "grep", "Seccomp:", "/proc/self/status")
        assert done.stdout.split() == ["Seccomp:", "2"]

    def test_limits(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        flags = ["--memory-limit", "33554432", "--cpus", "0.5", "--pid-file", str(tmp_path / "pid")]
        ctr("run", "-d", "--fifo-dir", ctr.fifos, *flags, pulled, "limited", "sleep", "1000")
        assert [int(row[1]) for row in lines(ctr("tasks", "ls")) if row[0] == "limited"] == [
            int((tmp_path / "pid").read_text())
        ]
        metrics = json.loads(ctr("tasks", "metrics", "--format", "json", "limited"))
        limit = metrics["memory"].get("usage_limit") or metrics["memory"]["usage"]["limit"]
        assert limit == 33554432
        assert "memory." in ctr("tasks", "metrics", "limited")
        ctr("tasks", "rm", "-f", "limited")
        ctr("containers", "rm", "limited")

    def test_a_folder_as_root_file_system(self, ctr: Ctr, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sh").write_bytes(Path("/bin/busybox").read_bytes())
        (tmp_path / "bin" / "sh").chmod(0o755)
        assert ctr.once("--rootfs", str(tmp_path), "folder", "/bin/sh", "-c", "echo rootfs").stdout == "rootfs\n"

    def test_another_snapshotter_and_runtime(self, ctr: Ctr, pulled: str) -> None:
        assert ctr.once("--snapshotter", "native", pulled, "copied", "echo", "native").stdout == "native\n"
        assert ctr.once("--runc-binary", "/usr/sbin/runc", pulled, "runc", "echo", "runc").stdout == "runc\n"
        absent = ctr.once("--runtime", "io.containerd.absent.v1", pulled, "absent", "true")
        assert absent.returncode == 1
        assert "containerd-shim-absent-v1" in absent.stderr

    def test_a_user_namespace(self, ctr: Ctr, pulled: str) -> None:
        maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
        done = ctr.once(*maps, pulled, "mapped", "cat", "/proc/self/uid_map")
        assert done.stdout.split() == ["0", "100000", "65536"], done.stderr

    def test_a_user_namespace_without_a_copy(self, ctr: Ctr, pulled: str) -> None:
        """The client finds that the snapshotter maps ids, and asks for it. Clients before containerd 2 mount an overlay
        themselves, to look for users, without knowing of mappings: so here it is the snapshotter that copies."""
        maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--remap-labels"]
        command = ["sh", "-c", "stat -c %u / /bin/busybox; touch /new; stat -c %u /new"]
        done = ctr.once(*maps, "--snapshotter", "native", pulled, "mapped-without-a-copy", *command)
        assert done.stdout.split() == ["0", "0", "0"], done.stderr


class TestStreams:
    """Where the output of a task goes, besides FIFOs."""

    def test_a_file(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        flags = ["--log-uri", f"file://{log}"]
        ctr("run", "-d", *flags, pulled, "to-file", "sh", "-c", "echo out; echo err >&2")
        wait_until(lambda: log.exists() and sorted(log.read_text().split()) == ["err", "out"], "both are written")
        ctr("tasks", "rm", "-f", "to-file")
        ctr("containers", "rm", "to-file")

    def test_a_program(self, ctr: Ctr, pulled: str, tmp_path: Path) -> None:
        """It gets the output as descriptors 3 and 4, and closes 5 when it is ready."""
        logger = tmp_path / "logger"
        script = '#!/bin/sh\necho "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2"\nexec 5>&-\ncat <&3 >>"$2"\n'
        logger.write_text(script)
        logger.chmod(0o755)
        log = tmp_path / "log"
        flags = ["--log-uri", f"binary://{logger}?--to={log}"]
        ctr("run", "-d", *flags, pulled, "to-program", "echo", "hello")
        wait_until(lambda: log.exists() and log.read_text() == "default/to-program\nhello\n", "the program has it")
        ctr("tasks", "rm", "-f", "to-program")
        ctr("containers", "rm", "to-program")

    def test_nothing(self, ctr: Ctr, pulled: str) -> None:
        ctr("run", "-d", "--null-io", pulled, "silent", "sh", "-c", "echo out; read line; exec sleep 1000")
        wait_until(lambda: b"sleep" in _command_line(ctr, "silent"), "reading nothing ends at once")
        ctr("tasks", "rm", "-f", "silent")
        ctr("containers", "rm", "silent")

    def test_a_pipe(self, ctr: Ctr, pulled: str) -> None:
        """More than a pipe holds, both ways."""
        command = ["ctr", "run", "--rm", "--fifo-dir", ctr.fifos, pulled, "piped", "cat"]
        data = bytes(range(256)) * 2000
        done = subprocess.run(
            command, env=ctr.daemon.environment, input=data, capture_output=True, timeout=60, check=True
        )
        assert done.stdout == data


def _command_line(ctr: Ctr, id: str) -> bytes:
    pids = [row[0] for row in lines(ctr("tasks", "ps", id))]
    return Path(f"/proc/{pids[0]}/cmdline").read_bytes() if pids else b""


class TestTerminals:
    """What people do with a terminal."""

    def test_run(self, ctr: Ctr, pulled: str) -> None:
        words = ["run", "--rm", "-t", "--fifo-dir", ctr.fifos, pulled, "tty", "sh"]
        with ctr.terminal(*words, size=(100, 30)) as terminal:
            terminal.expect("# ")
            terminal.type("stty size; tty\n")
            terminal.expect("30 100")
            terminal.expect("/dev/pts/0")
            terminal.type("exit 4\n")
            assert terminal.wait() == 4
        assert "tty" not in ctr("containers", "ls", "-q").split()

    def test_attach_and_exec(self, ctr: Ctr, pulled: str) -> None:
        with ctr.terminal("run", "-d", "-t", "--fifo-dir", ctr.fifos, pulled, "held", "sh") as terminal:
            assert terminal.wait() == 0
        words = ["tasks", "exec", "-t", "--fifo-dir", ctr.fifos, "--exec-id", "second", "held", "sh"]
        with ctr.terminal(*words, size=(70, 20)) as terminal:
            terminal.expect("# ")
            terminal.type("stty size; exit 5\n")
            terminal.expect("20 70")
            assert terminal.wait() == 5
        with ctr.terminal("tasks", "attach", "held") as terminal:
            terminal.type("echo att''ached\n")
            terminal.expect("attached")
            terminal.type("exit 6\n")
            assert terminal.wait() == 6
        ctr.call("tasks", "rm", "held")
        ctr("containers", "rm", "held")


class TestTasks:
    """The verbs of `ctr tasks` on a running container."""

    def test_exec_as_a_user_detached_and_killed(self, ctr: Ctr, web: str) -> None:
        exec = ["tasks", "exec", "--fifo-dir", ctr.fifos]
        assert ctr(*exec, "--exec-id", "a", "--cwd", "/tmp", "--user", "33", web, "sh", "-c", "id -u; pwd") == (
            "33\n/tmp\n"
        )
        ctr(*exec, "--exec-id", "b", "--detach", web, "sleep", "100")
        assert [row[1:] for row in lines(ctr("tasks", "ps", web))][1] == [
            "&ProcessDetails{ExecID:b,XXX_unrecognized:[],}"
        ]
        assert "already exists" in ctr.fails(*exec, "--exec-id", "b", web, "true")
        ctr("tasks", "kill", "-s", "9", "--exec-id", "b", web)
        wait_until(lambda: len(lines(ctr("tasks", "ps", web))) == 1, "the process is gone")
        assert "not found" in ctr.fails("tasks", "kill", "--exec-id", "absent", web)

    def test_start_again(self, ctr: Ctr, pulled: str) -> None:
        ctr("containers", "create", pulled, "again", "false")
        for _ in range(2):
            done = ctr.call("tasks", "start", "--fifo-dir", ctr.fifos, "again")
            assert done.returncode == 1, done.stderr
        ctr("tasks", "start", "-d", "--fifo-dir", ctr.fifos, "again")
        assert "already exists" in ctr.fails("tasks", "start", "-d", "--fifo-dir", ctr.fifos, "again")
        wait_until(lambda: ctr.tasks()["again"] == "STOPPED", "it stops")
        ctr.call("tasks", "rm", "again")
        ctr("containers", "label", "again", "purpose=test")
        assert json.loads(ctr("containers", "info", "again"))["Labels"]["purpose"] == "test"
        ctr("containers", "rm", "again")

    def test_what_runs_is_not_removed(self, ctr: Ctr, web: str) -> None:
        assert "must be stopped" in ctr.fails("tasks", "rm", web)
        assert "non stopped" in ctr.fails("containers", "rm", web)
        assert ctr.tasks()[web] == "RUNNING"

    def test_checkpoint(self, ctr: Ctr, web: str, pulled: str, tmp_path: Path) -> None:
        """That of a task needs criu, and an OCI runtime that can use it; that of a container without its task nothing."""
        done = ctr.call("tasks", "checkpoint", "--image-path", str(tmp_path), web)
        assert list(tmp_path.glob("core-*.img")) if done.returncode == 0 else "checkpoint" in done.stderr
        assert ctr.tasks()[web] == "RUNNING"
        ctr.execute(web, "touch", "/made")
        reference = pulled.replace("latest", "checkpoint")
        ctr("containers", "checkpoint", "--rw", "--image", web, reference)
        [row] = [row for row in lines(ctr("images", "ls")) if row[0] == reference]
        parts = json.loads(ctr("content", "get", row[2]))["manifests"]
        layers = [part["digest"] for part in parts if part["mediaType"].endswith("layer.v1.tar+gzip")]
        command = ["ctr", "content", "get", layers[0]]
        layer = subprocess.run(command, env=ctr.daemon.environment, capture_output=True, check=True, timeout=60).stdout
        with tarfile.open(fileobj=io.BytesIO(layer)) as changes:
            assert "made" in changes.getnames()
        ctr("images", "rm", "--sync", reference)


@pytest.mark.skipif(bool(criu.problem()), reason=criu.problem())
def test_a_checkpoint_is_restored(ctr: Ctr, pulled: str) -> None:
    """Memory, files and the place in the program come back in another container."""
    count = "i=0; while :; do i=$((i+1)); echo $i >/n; sleep 0.1; done"
    ctr("run", "-d", "--runc-binary", "runc", "--fifo-dir", ctr.fifos, pulled, "counter", "sh", "-c", count)
    wait_until(lambda: int(ctr.execute("counter", "sh", "-c", "cat /n || echo 0") or 0) > 5, "it counts")
    reference = pulled.replace("latest", "counter")
    ctr("containers", "checkpoint", "--rw", "--task", "--image", "counter", reference)
    before = int(ctr.execute("counter", "cat", "/n"))
    assert ctr.tasks()["counter"] == "RUNNING"
    ctr("tasks", "rm", "-f", "counter")
    ctr("containers", "restore", "--rw", "--live", "again", reference)
    after = int(ctr.execute("again", "cat", "/n"))
    assert 5 < after < before + 50
    wait_until(lambda: int(ctr.execute("again", "cat", "/n") or 0) > after, "it counts on")
    for id in ("again", "counter"):
        ctr.call("tasks", "rm", "-f", id)
        ctr("containers", "rm", id)
    ctr("images", "rm", "--sync", reference)


def test_a_spec_of_ones_own(ctr: Ctr, pulled: str, tmp_path: Path) -> None:
    spec = json.loads(ctr("oci", "spec"))
    bundle = tmp_path / "root"
    bundle.mkdir()
    ctr("images", "mount", pulled, str(bundle))
    try:
        spec["root"] = {"path": str(bundle)}
        spec["process"] |= {"args": shlex.split("/bin/sh -c 'echo from a spec'"), "terminal": False}
        spec["linux"]["cgroupsPath"] = f"/{ctr.daemon.cgroup_parent}/spec"
        (tmp_path / "config.json").write_text(json.dumps(spec))
        done = ctr.once("--config", str(tmp_path / "config.json"), "spec")
        assert done.stdout == "from a spec\n", done.stderr
    finally:
        ctr("images", "unmount", "--rm", str(bundle))


@pytest.mark.parametrize(
    "words", ["containers info", "content get", "leases rm", "tasks ps", "snapshots info", "images tag absent"]
)
def test_what_is_not_there(ctr: Ctr, words: str) -> None:
    """Each group says so, in the words that clients branch on."""
    name = "sha256:" + "0" * 64 if "content" in words else "absent"
    assert "not found" in ctr.fails(*words.split(), name)
