"""The same commands to docker and to `moorage`: the same columns, the same exit codes, the same keys of JSON.

Debian's docker is asked, with a dockerd whose containers run in the same daemon. What differs from run to run, ids, times
and sizes, is made the same in both transcripts before they are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.daemon import Daemon
from support.dockerd import Dockerd
from support.images import busybox_layer
from support.inprocess import Done
from support.terminal import wait_until

from .conftest import Cli

IMAGE = "busybox:test"
SCRIPT = "trap 'exit 5' TERM; echo out; while :; do sleep 0.1; done"
WEB = ("--network=none", "-e", "A=b", "-l", "team=x", "-w", "/tmp", "-u", "1:1", IMAGE, "sh", "-c", SCRIPT)


@dataclass(frozen=True)
class Both:
    """Two command lines for the same words."""

    docker: Dockerd
    moorage: Cli

    def __call__(self, *words: str) -> tuple[Done, Done]:
        return self.docker.call(*words), self.moorage.call(*words)

    def succeed(self, *words: str) -> tuple[str, str]:
        """Both must succeed; returns what they print."""
        first, second = self(*words)
        assert (first.returncode, second.returncode) == (0, 0), f"{words}: {first.stderr}{second.stderr}"
        return first.stdout, second.stdout

    def same(self, *words: str) -> str:
        """Both succeed and print the same, but for what differs from run to run; returns it."""
        first, second = map(plain, self.succeed(*words))
        assert first == second, words
        return second

    def fail(self, *words: str) -> int:
        """Both fail in the same way, and say why on standard error; returns the exit code."""
        first, second = self(*words)
        assert (first.returncode, plain(first.stdout)) == (second.returncode, plain(second.stdout)), words
        assert first.returncode != 0
        assert first.stderr
        assert second.stderr.startswith("moorage: ")
        return second.returncode


def plain(text: str) -> str:
    """A transcript without ids, times, sizes and the spaces that their lengths make."""
    text = re.sub(r"\b(sha256:)?([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", text)
    text = re.sub(r"(Less than a|About an?|\d+) (second|minute|hour)s?( ago)?", "TIME", text)
    text = re.sub(r"\b\d+(\.\d+)?[kM]?B\b", "SIZE", text)
    return re.sub(r" {2,}", "  ", re.sub(r" +$", "", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def both(shared_daemon: Daemon) -> Iterator[Both]:
    """dockerd and the namespace `default` of the same daemon, each with the image."""
    with Dockerd(shared_daemon) as docker:
        two = Both(docker, Cli(shared_daemon, IMAGE, "default"))
        archive = shared_daemon.folder / "busybox.tar"
        archive.write_bytes(busybox_layer())
        two.succeed("import", "-c", 'CMD ["sh"]', "-m", "a tar", str(archive), IMAGE)
        yield two
        for id in two.moorage("ps", "-aq").split():
            two.moorage("rm", "-f", id)


@pytest.fixture
def web(both: Both) -> Iterator[str]:
    """A container that runs on both sides."""
    both.same("run", "-d", "--name", "web", *WEB)
    wait_until(lambda: both.docker("logs", "web") == both.moorage("logs", "web").strip() == "out", "both have begun")
    yield "web"
    both("rm", "-f", "web")


def test_ps(both: Both, web: str) -> None:
    assert both.same("ps").splitlines()[0].startswith("CONTAINER ID")
    assert "ID  busybox:test  \"sh -c 'trap 'exit 5…\"  TIME  Up TIME  web" in both.same("ps", "-a")
    both.same("ps", "--no-trunc")
    both.same("ps", "-q", "--filter", "name=web")
    both.same("ps", "--format", "table {{.ID}}\t{{.Names}}\t{{.State}}\t{{.RunningFor}}")
    both.same("ps", "--format", "{{.Image}} {{.Command}} {{.Status}} {{json .Names}}")
    both.same("ps", "--filter", "status=exited")
    rows = [json.loads(text) for text in both.succeed("ps", "--format", "{{json .}}")]
    assert set(rows[0]) <= set(rows[1])


def test_images(both: Both) -> None:
    assert both.same("images").splitlines()[0].split("  ") == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    both.same("images", "-q")
    both.same("images", "--format", "{{.Repository}}:{{.Tag}}", "busybox")
    both.same("images", "nothing")


def test_exec(both: Both, web: str) -> None:
    assert (
        both.same("exec", "-e", "C=d", web, "sh", "-c", "echo $A $C; pwd; id -u; id -g; hostname")
        == "b d\n/tmp\n1\n1\nID\n"
    )
    for words, codes in ((("sh", "-c", "exit 7"), (7, 7)), (("/etc",), (126, 126)), (("absent",), (126, 127))):
        # docker's own documentation has 127 for what is not found; Debian's, which is old, says 126.
        first, second = both("exec", web, *words)
        assert (first.returncode, second.returncode) == codes, words
    assert both.fail("exec", "nobody", "true") == 1


def test_logs(both: Both, web: str) -> None:
    assert both.same("logs", web) == "out\n"
    assert both.same("logs", "--tail", "0", web) == ""
    for stamped in both.succeed("logs", "-t", "--tail", "1", web):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z out\n", stamped)
    assert both.fail("logs", "nobody") == 1


def test_inspect(both: Both, web: str) -> None:
    docker, moorage = (json.loads(text)[0] for text in both.succeed("inspect", web))
    assert {path: told(moorage, path) for path in TOLD} == {path: told(docker, path) for path in TOLD}
    types = [{path: type(told(side, path)).__name__ for path in KEYS} for side in (docker, moorage)]
    assert types[0] == types[1]
    both.same(
        "inspect", "--format", '{{.Name}} {{.State.Running}} {{.Config.Image}} {{index .Config.Labels "team"}}', web
    )
    assert both.fail("inspect", "nobody") == 1


TOLD = (
    "Args Path Name Platform RestartCount State.Status State.Running State.Paused State.OOMKilled State.Dead "
    "State.ExitCode State.Error State.FinishedAt Config.User Config.Tty Config.OpenStdin Config.StdinOnce Config.Cmd "
    "Config.Entrypoint Config.Image Config.WorkingDir Config.Volumes HostConfig.NetworkMode HostConfig.PortBindings "
    "HostConfig.RestartPolicy HostConfig.AutoRemove HostConfig.CapAdd HostConfig.CapDrop HostConfig.Privileged "
    "HostConfig.ReadonlyRootfs HostConfig.Memory HostConfig.NanoCpus HostConfig.CpuShares HostConfig.PidsLimit "
    "HostConfig.ShmSize HostConfig.Dns HostConfig.ExtraHosts HostConfig.IpcMode HostConfig.PidMode "
    "NetworkSettings.Ports NetworkSettings.IPAddress Mounts"
).split()
"""Where docker and `moorage` say the very same of the same container."""
KEYS = (
    "Id Created Image LogPath HostsPath ResolvConfPath Driver State.Pid State.StartedAt Config.Hostname Config.Env "
    "Config.Labels NetworkSettings.Networks NetworkSettings.Networks.none.IPAddress HostConfig.Runtime HostConfig.LogConfig.Type"
).split()
"""Where both have a value of the same type."""


def told(document: dict[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        assert key in value, path
        value = value[key]
    return value


def test_what_goes_on(both: Both, web: str) -> None:
    for text in both.succeed("top", web):
        assert text.splitlines()[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert "sh -c trap" in text
    for text in both.succeed("stats", "--no-stream", web):
        assert re.split(r"\s{2,}", text.splitlines()[0])[:4] == ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT"]
    assert both.same("port", web) == ""
    assert both.fail("port", web, "80") == 1


def test_stop_start_kill_wait(both: Both, web: str) -> None:
    assert both.same("stop", web) == "web\n"
    both.same("ps", "-a", "--format", "{{.Names}} {{.Status}}")
    assert both.same("wait", web) == "5\n"
    assert both.same("start", web) == "web\n"
    assert both.same("kill", web) == "web\n"
    assert both.same("wait", web) == "137\n"
    assert both.fail("kill", web) == 1
    assert both.same("restart", "-t", "0", web) == "web\n"


def test_pause(both: Both, web: str) -> None:
    assert both.same("pause", web) == "web\n"
    assert "(Paused)" in both.same("ps")
    assert both.fail("exec", web, "true") == 1
    assert both.fail("pause", web) == 1
    assert both.same("unpause", web) == "web\n"
    assert both.fail("unpause", web) == 1


def test_rename_and_rm(both: Both, web: str) -> None:
    assert both.fail("rm", web) == 1
    assert both.same("rename", web, "other") == ""
    assert both.same("rm", "-f", "other", "nobody").splitlines()[0] == "other"
    assert both.fail("rm", "nobody") == 1


def test_run(both: Both) -> None:
    for words, code in (
        (("sh", "-c", "exit 42"), 42),
        (("absent",), 127),
        (("/etc",), 126),
        (("sh", "-c", "kill -9 $$"), 137),
    ):
        first, second = both("run", "--rm", "--init", "--network=none", IMAGE, *words)
        assert (first.returncode, second.returncode, first.stdout, second.stdout) == (code, code, "", ""), words
    assert both.same("run", "--rm", "--network=none", "-h", "boat", IMAGE, "hostname") == "boat\n"
    for words in (
        ("--frobnicate", IMAGE),
        ("--memory", "much", IMAGE),
        ("--pull", "never", "absent:1"),
        ("--name", "a b", IMAGE),
    ):
        assert both.fail("run", *words) == 125
    assert both.same("ps", "-aq") == ""


def test_create_and_cp_and_diff(both: Both) -> None:
    both.same("create", "--name", "files", "--network=none", IMAGE, "sh", "-c", "echo new >/tmp/new; rm /etc/group")
    assert both.same("ps", "-a", "--format", "{{.Names}} {{.Status}}") == "files Created\n"
    assert both.same("start", "-a", "files") == ""
    for shown in both.succeed("diff", "files"):
        assert sorted(shown.splitlines()) == ["A /tmp/new", "C /etc", "C /tmp", "D /etc/group"]
    target = both.moorage.daemon.folder / "copied"
    for side in (both.docker, both.moorage):
        assert side("cp", "files:/tmp/new", str(target)) == ""
        assert target.read_text() == "new\n"
        target.unlink()
    assert both.fail("cp", "files:/tmp/absent", str(target)) == 1
    both.succeed("rm", "files")


def test_history_and_tag(both: Both) -> None:
    assert both.same("history", IMAGE).splitlines()[0].split("  ") == [
        "IMAGE",
        "CREATED",
        "CREATED BY",
        "SIZE",
        "COMMENT",
    ]
    assert both.same("tag", IMAGE, "other:2") == ""
    assert both.same("rmi", "other:2") == "Untagged: other:2\n"
    assert both.fail("rmi", "other:2") == 1
    assert both.fail("tag", "absent:1", "other:3") == 1


def test_volumes(both: Both) -> None:
    assert both.same("volume", "create", "--label", "a=b", "data") == "data\n"
    assert both.same("volume", "ls").splitlines()[1] == "local  data"
    docker, moorage = (json.loads(text)[0] for text in both.succeed("volume", "inspect", "data"))
    assert (set(docker), docker["Labels"]) == (set(moorage), moorage["Labels"])
    assert both.same("volume", "ls", "-q") == "data\n"
    assert both.same("volume", "rm", "data") == "data\n"
    assert both.fail("volume", "rm", "data") == 1
    assert both.fail("volume", "inspect", "data") == 1


def test_networks(both: Both) -> None:
    first, second = map(plain, both.succeed("network", "ls"))
    assert [line for line in second.splitlines() if "bridge" not in line] == first.splitlines()
    docker, moorage = (json.loads(text)[0] for text in both.succeed("network", "inspect", "none"))
    assert {"Name", "Id", "Driver", "Scope", "Internal", "IPAM", "Containers", "Options", "Labels"} <= set(
        docker
    ) & set(moorage)
    assert both.fail("network", "rm", "none") == 1
    assert both.fail("network", "inspect", "absent") == 1


def test_commit_and_save(both: Both, web: str) -> None:
    assert both.same("commit", "-m", "as it is", web, "made:1") == "ID\n"
    for shown in both.succeed("history", "made:1"):
        assert re.findall(r"(a tar|as it is)$", shown, re.MULTILINE) == ["as it is", "a tar"]
    assert both.same("run", "--rm", "--network=none", "made:1", "echo", "from it") == "from it\n"
    path = both.moorage.daemon.folder / "made.tar"
    for side in (both.docker, both.moorage):
        side("save", "-o", str(path), "made:1")
        path.unlink()
    both.succeed("rmi", "made:1")
