"""Lists, images, namespaces and what goes wrong: the words and codes that a user sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from moorage.cli import app
from support.daemon import Daemon
from support.images import ImageSpec, push
from support.registry import Registry
from support.terminal import wait_until

from .conftest import Cli


def test_a_pull_tells_its_steps_line_by_line(cli: Cli, registry: Registry) -> None:
    name = f"{registry.address}/told:1"
    push(registry.address, "told", "1", ImageSpec(config={"Cmd": ["true"], "Labels": {"a": "b"}}))
    done = cli.call("pull", name)
    assert (done.returncode, done.stdout) == (0, f"{name}\n")
    assert re.search(r"^layer [0-9a-f]{12}: ", done.stderr, re.MULTILINE)
    assert "Digest: sha256:" in done.stderr
    assert "\x1b" not in done.stderr
    quiet = cli.call("pull", "-q", name)
    assert (quiet.stdout, quiet.stderr) == (f"{name}\n", "")


def test_run_pulls_what_is_not_there(cli: Cli) -> None:
    cli("rmi", cli.image)
    never = cli.call("run", "--rm", "--pull", "never", cli.image, "true")
    assert never.returncode == 125
    done = cli.call("run", "--rm", cli.image, "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "Unable to find image" in done.stderr


def test_images_are_listed_as_docker_does(cli: Cli) -> None:
    heading, line = cli("images").splitlines()
    assert re.split(r"\s{2,}", heading) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    repository, tag, id, created, size = re.split(r"\s{2,}", line)
    assert (f"{repository}:{tag}", created.endswith(" ago"), size.endswith("MB")) == (cli.image, True, True)
    assert cli("images", "-q") == f"{id}\n"
    assert cli("images", "--format", "{{.Repository}}:{{.Tag}}") == f"{cli.image}\n"
    row = json.loads(cli("--format", "json", "images"))
    assert row["ID"] == id
    assert cli("images", "nothing/of/that/name").count("\n") == 1
    inspected = json.loads(cli("inspect", cli.image))[0]
    assert inspected["Id"].startswith(f"sha256:{id}")
    assert inspected["Config"]["Cmd"] == ["sh"]


def test_images_are_removed_by_name_and_by_id_but_not_in_use(cli: Cli) -> None:
    id = cli("create", cli.image, "true").strip()
    used = cli.call("rmi", cli.image)
    assert (used.returncode, f"is used by {id[:12]}" in used.stderr) == (1, True)
    cli("rm", id)
    assert cli("rmi", cli("images", "-q").strip()) == f"Untagged: {cli.image}\n"
    assert cli("images", "-q") == ""
    missing = cli.call("rmi", cli.image)
    assert (missing.returncode, "no such image" in missing.stderr) == (1, True)
    assert cli("rmi", "-f", cli.image) == ""


def test_images_are_called_by_their_id(cli: Cli) -> None:
    id = cli("images", "-q").strip()
    assert cli("run", "--rm", "--pull", "never", id, "echo", "by id") == "by id\n"
    cli("tag", id, "again:1")
    assert json.loads(cli("inspect", f"sha256:{id}"))[0]["Id"].startswith(f"sha256:{id}")
    assert len(cli("rmi", id).splitlines()) == 2
    assert cli.call("run", "--pull", "never", id, "true").returncode == 125


def test_names_are_unique_random_where_none_is_given_and_ids_may_be_short(cli: Cli) -> None:
    first = cli("create", "--name", "taken", cli.image, "true").strip()
    again = cli.call("run", "--name", "taken", cli.image, "true")
    assert again.returncode == 125
    assert first[:12] in again.stderr
    second = cli("create", cli.image, "true").strip()
    names = cli("ps", "-a", "--format", "{{.Names}}").split()
    assert "taken" in names
    assert re.fullmatch(r"[a-z]+_[a-z]+\d*", next(name for name in names if name != "taken"))
    assert json.loads(cli("inspect", second[:10]))[0]["Id"] == second
    assert cli("inspect", "-f", "{{.Name}} {{.State.Status}}", first[:6]) == "/taken created\n"
    assert cli.call("rm", "nobody").returncode == 1
    assert "no such container: nobody" in cli.call("rm", "nobody", "taken").stderr
    assert cli("ps", "-a", "--format", "{{.Names}}").split() == [name for name in names if name != "taken"]


def test_filters_and_formats_of_ps(cli: Cli) -> None:
    cli("run", "-d", "--name", "one", "--label", "team=a", cli.image, "sleep", "100")
    cli("create", "--name", "two", "--label", "team=b", cli.image, "true")
    ask = ("ps", "-a", "--format", "{{.Names}}", "--filter")
    assert cli(*ask, "label=team=a") == "one\n"
    assert cli(*ask, "status=created") == "two\n"
    assert sorted(cli(*ask, "name=o").split()) == ["one", "two"]
    assert cli("ps", "-l", "-q") == cli("ps", "-a", "-q", "--filter", "name=two")
    assert cli("ps", "--format", r"table {{.Names}}\t{{.State}}").split() == ["NAMES", "STATE", "one", "running"]
    wrong = cli.call("ps", "--format", "{{.Nope}}")
    assert (wrong.returncode, "no field 'Nope'" in wrong.stderr) == (1, True)
    assert cli.call("ps", "--filter", "colour=red").returncode == 1


def test_lists_are_filtered(cli: Cli) -> None:
    cli("volume", "create", "--label", "a=b", "used")
    cli("volume", "create", "unused")
    cli("network", "create", "--label", "a=b", "sea")
    cli("create", "--name", "one", "--network", "sea", "-v", "used:/x", cli.image, "true")
    assert cli("volume", "ls", "-q", "-f", "dangling=true") == "unused\n"
    assert cli("volume", "ls", "-q", "-f", "label=a=b") == "used\n"
    assert cli("volume", "ls", "-q", "-f", "name=us", "-f", "label=c") == ""
    assert cli("network", "ls", "-f", "label=a", "--format", "{{.Name}}") == "sea\n"
    assert cli("network", "ls", "-f", "driver=null", "--format", "{{.Name}}") == "none\n"
    ask = ("ps", "-a", "--format", "{{.Names}}", "--filter")
    for wanted in ("network=sea", "volume=used", f"ancestor={cli.image}"):
        assert cli(*ask, wanted) == "one\n"
    cli("start", "-a", "one")
    assert (cli(*ask, "exited=0"), cli(*ask, "exited=1")) == ("one\n", "")
    assert cli("ps", "-a", "-s").splitlines()[0].split()[-1] == "SIZE"
    assert len(cli("images", "-q", "-f", f"reference={cli.image.split('/')[0]}/*/busy*").split()) == 1
    assert cli("images", "-q", "-f", "reference=other") == cli("images", "-q", "-f", "dangling=true") == ""
    assert cli("images", "-q", "-f", "label=none") == ""
    for list_of in ("volume", "network", "image"):
        assert cli.call(list_of, "ls", "-f", "colour=red").returncode == 1
    cli("rm", "one")
    cli("network", "rm", "sea")
    cli("volume", "prune", "-f", "--all")


def test_two_namespaces_do_not_see_one_another(cli: Cli, shared_daemon: Daemon) -> None:
    other = Cli(shared_daemon, cli.image, f"{cli.namespace}-other")
    id = cli.run_detached("sh", "-c", "echo mine; sleep 100", name="same")
    assert other("images", "-q") == ""
    assert other("ps", "-aq") == ""
    for verb in (("logs",), ("inspect",), ("stop",), ("rm", "-f"), ("exec",)):
        trailing = ("true",) if verb == ("exec",) else ()
        done = other.call(*verb, id, *trailing)
        assert verb == ("rm", "-f") or done.returncode == 1
        assert "mine" not in done.stdout
    theirs = other.run_detached("sh", "-c", "echo theirs; sleep 100", name="same")
    other.wait_for_log("same", "theirs")
    cli.wait_for_log("same", "mine")
    assert "theirs" not in cli("logs", "same")
    namespaces = cli("ns", "ls", "-q").split()
    assert {cli.namespace, other.namespace} <= set(namespaces)
    occupied = cli.call("ns", "rm", other.namespace)
    assert occupied.returncode == 1
    other("rm", "-f", theirs)
    assert cli("ps", "-q").split() == [id[:12]]


def test_the_namespace_and_the_daemon_are_named_before_the_verb_or_behind_it(cli: Cli) -> None:
    cli("create", "--name", "here", cli.image, "true")
    assert cli("ps", "-aq", "--namespace", f"{cli.namespace}-none") == cli("-n", "none", "ps", "-aq") == ""
    assert cli("--namespace", "none", "ps", "-a", "--namespace", cli.namespace, "--format", "{{.Names}}") == "here\n"
    assert "/nowhere.sock" in cli.call("run", "--address", "/nowhere.sock", cli.image, "--namespace", "x").stderr


def test_namespaces_come_and_go(cli: Cli) -> None:
    assert cli("ns", "create", "made", "a=b") == "made\n"
    assert "made" in cli("ns", "ls", "-q").split()
    assert cli("ns", "ls", "--format", "{{.Name}}={{.Labels}}").splitlines().count("made=a=b") == 1
    again = cli.call("ns", "create", "made")
    assert again.returncode == 1
    assert cli("ns", "rm", "made") == "made\n"
    assert cli.call("ns", "rm", "made").returncode == 1
    assert cli.call("ns", "create", "not valid").returncode == 1


def test_events_are_told_as_they_happen(cli: Cli) -> None:
    with cli.popen("events", "--since", "0", "--format", "json") as listening:
        assert listening.stdout is not None
        cli("run", "--rm", cli.image, "true")
        seen: list[str] = []
        while "/tasks/delete" not in seen:
            event = json.loads(listening.stdout.readline())
            assert event["Namespace"] == cli.namespace
            seen.append(event["Topic"])
        listening.terminate()
    wanted = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert [topic for topic in seen if topic in wanted] == wanted


def test_the_daemon_tells_of_itself(cli: Cli) -> None:
    assert re.search(r"Server:\n Version: +\d", cli("version"))
    version = json.loads(cli("version", "--format", "json"))
    assert version["Server"]["Version"]
    assert cli("info", "--format", "{{.Namespace}}") == f"{cli.namespace}\n"
    listed = cli("plugins")
    assert re.search(r"^io\.containerd\.snapshotter\.v1 +overlayfs +(ok|skip)", listed, re.MULTILINE)
    only = cli("plugins", "-q", "type==io.containerd.snapshotter.v1").split()
    assert only
    assert all(name.startswith("io.containerd.snapshotter.v1.") for name in only)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "Bad:Reference"], 125, "invalid reference"),
        (["pull", "127.0.0.1:1/nobody:1"], 1, "127.0.0.1:1"),
        (["run", "--network", "nowhere", "IMAGE", "true"], 125, "no such network"),
        (["run", "-u", "stranger", "IMAGE", "true"], 125, "stranger"),
        (["run", "--name", "no good", "IMAGE", "true"], 125, "invalid container name"),
        (["run", "--memory", "much", "IMAGE", "true"], 125, "invalid size"),
        (["run", "--no-such-option", "IMAGE"], 125, "No such option"),
        (["run"], 125, "Missing argument"),
        (["frobnicate"], 125, "No such command"),
        (["run", "-e", "A=\udcff", "IMAGE", "true"], 125, "not UTF-8"),
        (["run", "-e", "=x", "IMAGE", "true"], 125, "invalid variable"),
        (["run", "--mount", "target", "IMAGE", "true"], 125, "invalid mount"),
        (["run", "--memory", "99999999999g", "IMAGE", "true"], 125, "memory is"),
        (["run", "--stop-timeout", "nan", "IMAGE", "true"], 125, "no number of seconds"),
        (["run", "--dns", "name", "--network", "bridge", "IMAGE", "true"], 125, "invalid name server"),
        (["run", "--cgroup-parent", "relative", "IMAGE", "true"], 125, "absolute path"),
        (["network", "create", "--subnet", "10.1.2.3", "tiny"], 1, "no room"),
        (["--address", "/" + "a" * 200, "ps"], 125, "too long for a socket"),
        (["logs", "--tail", "x", "nobody"], 1, "no such container"),
        (["kill", "-s", "LOUD", "nobody"], 1, "unknown signal"),
        (["pull", "--platform", "a/b/c/d", "busybox"], 1, "invalid platform"),
        (["--namespace", "not valid", "ps"], 1, "namespace"),
    ],
)
def test_bad_input_is_told_in_one_line(cli: Cli, words: list[str], code: int, message: str) -> None:
    done = cli.call(*[cli.image if word == "IMAGE" else word for word in words])
    assert (done.returncode, done.stdout) == (code, "")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("moorage: ")
    assert message in lines[-1]
    assert "Traceback" not in done.stderr
    assert cli("ps", "-aq") == ""


def test_an_image_that_is_not_there_is_named(cli: Cli, registry: Registry) -> None:
    name = f"{registry.address}/no/such:1"
    done = cli.call("run", "--rm", name, "true")
    assert done.returncode == 125
    assert name in done.stderr.splitlines()[-1]


def test_no_daemon_is_explained(cli: Cli, tmp_path: Path) -> None:
    done = cli.call("--address", str(tmp_path / "none.sock"), "ps")
    assert done.returncode == 1
    assert f"cannot reach the daemon at {tmp_path}/none.sock" in done.stderr
    assert "Is mooraged running?" in done.stderr
    assert cli.call("--address", str(tmp_path / "none.sock"), "run", "x").returncode == 125


def _help(words: list[str]) -> str:
    done = CliRunner().invoke(app.cli, [*words, "--help"], prog_name="moorage")
    assert done.exit_code == 0
    return done.output


def test_help_is_there_for_every_verb() -> None:
    verbs = re.findall(r"^  ([a-z]+) +\S", _help([]).partition("Commands:")[2], re.MULTILINE)
    assert {"run", "ps", "pull", "images", "logs", "exec", "stop", "rm", "rmi", "ns", "plugins", "events"} <= set(verbs)
    for verb in verbs:
        assert f"Usage: moorage {verb}" in _help([verb])


def test_stopping_and_logs_of_several(cli: Cli) -> None:
    for name in ("a", "b"):
        cli(
            "run",
            "-d",
            "--name",
            name,
            cli.image,
            "sh",
            "-c",
            f"trap 'exit 0' TERM; echo {name}; while :; do sleep 0.05; done",
        )
        cli.wait_for_log(name, name)
    assert cli("stop", "a", "b") == "a\nb\n"
    wait_until(lambda: cli("ps", "-q") == "", "both have stopped")
    assert cli("rm", "a", "b") == "a\nb\n"
