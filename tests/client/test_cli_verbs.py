"""The verbs around a container's life, and those of images as files."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from support.registry import Registry
from support.terminal import wait_until

from .conftest import Cli


@pytest.fixture
def boat(cli: Cli) -> str:
    """A container that runs, called `boat`."""
    cli.run_detached(
        "sh", "-c", "echo one > /tmp/file; rm /etc/group; echo changed >> /etc/passwd; sleep 100", name="boat"
    )
    wait_until(
        lambda: cli.call("exec", "boat", "grep", "changed", "/etc/passwd").returncode == 0, "its files are written"
    )
    return "boat"


def test_pause_restart_and_rename(cli: Cli, boat: str) -> None:
    assert cli("pause", boat) == "boat\n"
    assert "(Paused)" in cli("ps")
    assert cli("unpause", boat) == "boat\n"
    assert "is not paused" in cli.call("unpause", boat).stderr
    pid = json.loads(cli("inspect", boat))[0]["State"]["Pid"]
    assert cli("restart", "-t", "0", boat) == "boat\n"
    assert json.loads(cli("inspect", boat))[0]["State"]["Pid"] not in (0, pid)
    cli("create", "--name", "other", cli.image, "true")
    assert cli.call("rename", boat, "other").returncode == 1
    assert cli("rename", boat, "ship") == ""
    assert cli("ps", "--format", "{{.Names}}") == "ship\n"


def test_top_and_stats(cli: Cli, boat: str) -> None:
    lines = cli("top", boat).splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert any("sleep 100" in line for line in lines[1:])
    assert cli("top", boat, "-eo", "pid,comm").splitlines()[0].split() == ["PID", "COMMAND"]
    heading, row = cli("stats", "--no-stream").splitlines()
    assert re.split(r"\s{2,}", heading)[:4] == ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT"]
    assert re.search(r"boat +\d+\.\d\d% +\S+iB / \S+iB", row)
    assert int(cli("stats", "--no-stream", "--format", "{{.PIDs}}", boat)) >= 1


def test_limits_of_a_running_container_are_changed(cli: Cli, boat: str) -> None:
    assert cli("update", "--memory", "128m", "--pids-limit", "50", "--restart", "on-failure:1", boat) == "boat\n"
    config = json.loads(cli("inspect", boat))[0]["HostConfig"]
    assert (config["Memory"], config["PidsLimit"], config["RestartPolicy"]["Name"]) == (128 << 20, 50, "on-failure")
    id = json.loads(cli("inspect", boat))[0]["Id"]
    limits = [path / "pids.max" for path in Path("/sys/fs/cgroup").rglob(id) if (path / "pids.max").exists()]
    assert [limit.read_text().strip() for limit in limits] == ["50"]
    assert "nothing to change" in cli.call("update", boat).stderr


def test_changes_become_an_image(cli: Cli, boat: str) -> None:
    shown = cli("diff", boat).splitlines()
    assert {"D /etc/group", "C /etc/passwd", "C /etc", "A /tmp/file"} <= set(shown)
    id = cli("commit", "-m", "a file", "-c", 'CMD ["cat", "/tmp/file"]', "-c", "ENV A=b", boat, "made:1").strip()
    assert cli("images", "-q", "--no-trunc", "made:1") == f"{id}\n"
    assert cli("run", "--rm", "--pull", "never", "made:1") == "one\n"
    assert cli.call("run", "--rm", "made:1", "test", "-e", "/etc/group").returncode == 1
    assert "a file" in cli("history", "made:1")
    cli("tag", "made:1", "other:2")
    assert cli("run", "--rm", "--pull", "never", "other:2", "sh", "-c", "echo $A") == "b\n"


def test_files_are_copied_both_ways(cli: Cli, boat: str, tmp_path: Path) -> None:
    cli("cp", f"{boat}:/tmp/file", str(tmp_path))
    assert (tmp_path / "file").read_text() == "one\n"
    (tmp_path / "file").write_text("two\n")
    cli("cp", str(tmp_path / "file"), f"{boat}:/tmp/new")
    assert cli("exec", boat, "cat", "/tmp/new") == "two\n"
    cli("exec", boat, "ln", "-s", "/../../../../../../etc", "/tmp/out")
    (tmp_path / "probe").write_text("inside\n")
    cli("cp", str(tmp_path / "probe"), f"{boat}:/tmp/out")
    assert cli("exec", boat, "cat", "/etc/probe") == "inside\n"
    assert not Path("/etc/probe").exists()
    cli("stop", "-t", "0", boat)
    cli("cp", str(tmp_path / "probe"), f"{boat}:/root/probe")
    cli("cp", f"{boat}:/root/.", str(tmp_path / "root"))
    assert (tmp_path / "root" / "probe").read_text() == "inside\n"
    missing = cli.call("cp", f"{boat}:/nowhere", str(tmp_path))
    assert (missing.returncode, "No such file or directory" in missing.stderr) == (1, True)


def test_images_are_saved_loaded_and_pushed(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.address}/pushed:1"
    cli("tag", cli.image, name)
    assert cli("push", "-q", name) == f"{name}\n"
    cli("save", "-o", str(tmp_path / "image.tar"), name)
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert {"index.json", "manifest.json"} <= set(archive.getnames())
    cli("rmi", name, cli.image)
    assert cli("load", "-q", "-i", str(tmp_path / "image.tar")) == f"Loaded image: {name}\n"
    assert cli("run", "--rm", "--pull", "never", name, "echo", "loaded") == "loaded\n"
    cli("rmi", name)
    assert cli("pull", "-q", name) == f"{name}\n"
    broken = cli.call("load", "-q", "-i", "/dev/null")
    assert (broken.returncode, "Traceback" in broken.stderr) == (1, False)


def test_what_is_not_used_is_pruned(cli: Cli) -> None:
    cli("create", "--name", "idle", cli.image, "true")
    unused = cli("volume", "create").strip()
    cli("volume", "create", "kept")
    table = cli("system", "df").splitlines()
    rows = ["TYPE", "Images", "Containers", "Local Volumes", "Leases", "Garbage"]
    assert [re.split(r"\s{2,}", line)[0] for line in table] == rows
    done = cli.call("container", "prune", input="n\n")
    assert cli("ps", "-aq") != "", done.stdout
    pruned = cli("system", "prune", "-f", "--volumes", "--all")
    assert f"Untagged: {cli.image}" in pruned
    assert unused in pruned.split()
    assert (cli("ps", "-aq"), cli("images", "-q"), cli("volume", "ls", "-q")) == ("", "", "kept\n")
    assert cli("volume", "rm", "kept") == "kept\n"


def test_credentials_are_kept_where_docker_keeps_them(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert (
        cli.call("login", "-u", "me", "--password-stdin", "registry.test", input="secret\n").stdout
        == "Login Succeeded\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"auths": {"registry.test": {"auth": "bWU6c2VjcmV0"}}}
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    assert "Removing" in cli("logout", "registry.test")
    assert cli.call("logout", "registry.test").returncode == 1


def test_completion_knows_the_verbs(cli: Cli) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_MOORAGE_COMPLETE" in cli("completion", shell)
    assert cli("image", "ls", "-q") == cli("images", "-q")


def test_a_tar_goes_into_a_container_and_out_of_it(cli: Cli, boat: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        entry = tarfile.TarInfo("given")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    with (tmp_path / "in.tar").open("rb") as file:
        assert (
            cli.daemon.call(
                "moorage", "-n", cli.namespace, "cp", "-", f"{boat}:/tmp", input=file.read().decode()
            ).returncode
            == 0
        )
    assert cli("exec", boat, "cat", "/tmp/given") == "abc"
    out = cli("cp", f"{boat}:/tmp/given", "-")
    with tarfile.open(fileobj=io.BytesIO(out.encode())) as archive:
        assert archive.getnames() == ["given"]


def test_what_is_not_unicode_is_not_run(cli: Cli, boat: str) -> None:
    for words in (("\udcff",), ("echo", "\udcff")):
        done = cli.call("exec", boat, *words)
        assert (done.returncode, "not UTF-8" in done.stderr) == (1, True)
    broken = cli.call("commit", "-c", 'LABEL "open', boat)
    assert (broken.returncode, "No closing quotation" in broken.stderr) == (1, True)


def test_images_without_a_name(cli: Cli, boat: str) -> None:
    cli("exec", boat, "sh", "-c", "echo changed > /file")
    id = cli("commit", "-c", "CMD cat /file", boat).strip()
    assert cli("run", "--rm", id) == "changed\n"
    assert cli("images", "--format", "{{.Repository}} {{.Tag}}", "-f", "dangling=true") == "<none> <none>\n"
    assert cli("inspect", "--format", "{{json .RepoTags}} {{.Id}}", id) == f"[] {id}\n"
    using = cli("create", id).strip()
    short = cli("ps", "-a", "--filter", f"id={using}", "--format", "{{.Image}}").strip()
    assert cli("inspect", "--format", "{{.Id}}", short) == f"{id}\n"
    assert cli("image", "prune", "-f") == ""
    cli("rm", using)
    assert re.fullmatch(r"Deleted: sha256:[0-9a-f]{64}\n", cli("image", "prune", "-f"))
    again = cli("commit", boat).strip()
    cli("tag", again, "named:1")
    cli("tag", again, "quay.test/far/named:2")
    tags = json.loads(cli("inspect", "--format", "{{json .RepoTags}}", again))
    assert tags == ["named:1", "quay.test/far/named:2"]
    digests = json.loads(cli("inspect", "--format", "{{json .RepoDigests}}", again))
    assert [digest.partition("@")[0] for digest in digests] == ["named", "quay.test/far/named"]
    cli("rmi", "quay.test/far/named:2")
    assert cli("images", "-q", "-f", "dangling=true") == ""
    assert cli("rmi", again) == "Untagged: named:1\n"


def test_links_are_followed_where_it_is_asked_for(cli: Cli, boat: str, tmp_path: Path) -> None:
    cli("exec", boat, "sh", "-c", "echo inside > /file; ln -s file /link; ln -s link /second; ln -s round /round")
    cli("cp", "-L", f"{boat}:/second", str(tmp_path))
    assert (tmp_path / "second").read_text() == "inside\n"
    assert not (tmp_path / "second").is_symlink()
    (tmp_path / "outer").symlink_to(tmp_path / "second")
    cli("cp", "-L", str(tmp_path / "outer"), f"{boat}:/tmp")
    assert cli("exec", boat, "cat", "/tmp/outer") == "inside\n"
    round = cli.call("cp", "-L", f"{boat}:/round", str(tmp_path))
    assert (round.returncode, "too many links" in round.stderr) == (1, True)
    sizes = json.loads(cli("inspect", "--size", boat))[0]
    assert 0 < sizes["SizeRw"] < sizes["SizeRootFs"]
