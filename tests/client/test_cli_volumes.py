"""Volumes: with names and without, of the user and of the image."""

from __future__ import annotations

import json
from pathlib import Path

from support.images import ImageSpec, push
from support.registry import Registry
from support.terminal import wait_until

from .conftest import Cli


def test_volumes_outlive_containers_and_begin_with_what_the_image_has(cli: Cli) -> None:
    script = "test -e /etc/passwd && echo kept > /etc/new"
    cli("run", "--rm", "-v", "data:/etc", cli.image, "sh", "-c", script)
    assert cli("run", "--rm", "--mount", "type=volume,src=data,dst=/mnt,ro", cli.image, "cat", "/mnt/new") == "kept\n"
    assert cli("volume", "ls", "-q") == "data\n"
    assert cli("volume", "inspect", "--format", "{{.Name}} {{.Driver}}", "data") == "data local\n"
    cli("create", "--name", "user", "-v", "data:/etc", cli.image, "true")
    used = cli.call("volume", "rm", "data")
    assert (used.returncode, "is used by" in used.stderr) == (1, True)
    assert cli("volume", "create", "other") == "other\n"
    assert cli("volume", "prune", "-f") == ""
    assert cli("volume", "prune", "-f", "--all", "--filter", "label=kept") == ""
    assert cli("volume", "prune", "-f", "--all", "--filter", "until=1h") == ""
    assert cli("volume", "prune", "-f", "--all", "--filter", "label!=kept") == "other\n"
    cli("rm", "user")
    assert cli("volume", "rm", "data") == "data\n"
    assert cli("volume", "ls", "-q") == ""


def test_volumes_without_names_go_with_their_container(cli: Cli) -> None:
    cli("run", "--rm", "-v", "/data", cli.image, "touch", "/data/file")
    wait_until(lambda: cli("volume", "ls", "-q") == "", "its volume is gone")
    cli("run", "-d", "--rm", "-v", "/data", cli.image, "true")
    wait_until(lambda: cli("ps", "-aq") == cli("volume", "ls", "-q") == "", "the daemon removes both")
    id = cli("create", "--mount", "target=/data", cli.image, "true").strip()
    (name,) = cli("volume", "ls", "-q").split()
    assert "com.docker.volume.anonymous" in json.loads(cli("volume", "inspect", name))[0]["Labels"]
    cli("rm", id)
    assert cli("volume", "ls", "-q").split() == [name]
    cli("volume", "rm", name)


def test_an_image_brings_its_volumes(cli: Cli, registry: Registry) -> None:
    name = f"{registry.address}/voluminous:1"
    config = {"Cmd": ["mount"], "Volumes": {"/etc": {}, "/mine/": {}}}
    push(registry.address, "voluminous", "1", ImageSpec(config=config))
    cli("pull", "-q", name)
    cli("run", "--name", "own", "--tmpfs", "/mine", name, "sh", "-c", "test -s /etc/passwd && echo kept > /etc/new")
    (mount,) = (each for each in json.loads(cli("inspect", "own"))[0]["Mounts"] if each["Type"] == "volume")
    assert (mount["Destination"], mount["Name"]) == ("/etc", cli("volume", "ls", "-q").strip())
    cli("rm", "-v", "own")
    assert cli("volume", "ls", "-q") == ""


def test_a_container_has_the_volumes_of_another(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    mounts = ("-v", "/own", "-v", "named:/named", "-v", f"{tmp_path}:/bound:ro")
    cli("run", "--name", "holder", *mounts, cli.image, "sh", "-c", "echo own > /own/a; echo named > /named/a")
    read = ("cat", "/own/a", "/named/a", "/bound/file")
    assert cli("run", "--rm", "--volumes-from", "holder", cli.image, *read) == "own\nnamed\nhost\n"
    refused = cli.call("run", "--rm", "--volumes-from", "holder:ro", cli.image, "touch", "/own/b")
    assert "Read-only file system" in refused.stderr
    instead = ("--tmpfs", "/own", "--volumes-from", "holder")
    assert cli("run", "--rm", *instead, cli.image, "ls", "/own") == ""
    for wrong, message in (("nobody", "no such container"), ("holder:xx", "invalid --volumes-from")):
        done = cli.call("run", "--rm", "--volumes-from", wrong, cli.image, "true")
        assert (done.returncode, message in done.stderr) == (125, True)
    cli("rm", "-v", "holder")
    assert cli("volume", "ls", "-q") == "named\n"
    cli("volume", "rm", "named")
