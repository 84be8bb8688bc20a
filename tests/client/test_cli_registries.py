"""Verbs about registries against the real service: why a pull does what it does, logins and their helpers, other forms."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.images import push
from support.registry import Registry
from support.transfer import HTPASSWD

from .conftest import Cli

HELPER = """#!/bin/sh
# Keeps what it is told in a file a registry, and notes its calls.
folder=$(dirname "$0")/kept
mkdir -p "$folder"
question=$(cat)
echo "$1 $question" >>"$folder/calls"
key=$(printf %s "$question" | sed 's/.*"ServerURL": *"\\([^"]*\\)".*/\\1/; s,[^a-z0-9.],_,g')
case $1 in
store) printf %s "$question" >"$folder/$key" ;;
get) cat "$folder/$key" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f "$folder/$key" ;;
esac
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password, with an image."""
    folder = tmp_path_factory.mktemp("locked")
    with Registry(folder) as open_one:
        push(open_one.address, "team/image", "v1")
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = {"auth": {"htpasswd": {"realm": "locked", "path": str(folder / "htpasswd")}}}
    with Registry(folder, extra=auth) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of docker's configuration, with a credential helper on the path."""
    helper = tmp_path / "docker-credential-drawer"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    changed = {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    monkeypatch.setattr(Cli, "environment", {**cli.environment, **changed})
    return tmp_path


def test_a_pull_is_explained(cli: Cli, home: Path, registry: Registry) -> None:
    text = cli("explain-pull", cli.image)
    assert f"Reference:  {cli.image}" in text
    assert "no hosts.toml: the registry itself" in text
    assert f"1. http://{registry.address}/v2" in text
    assert "outcome:      it has it" in text
    assert "A pull fetches sha256:" in text
    explained = json.loads(cli("explain-pull", "--format", "json", cli.image))
    (host,) = explained["hosts"]
    assert (host["asked"], host["credentials"], host["digest"]) == (True, "none", explained["digest"])


def test_hosts_are_explained_in_their_order(cli: Cli, home: Path, registry: Registry, locked: Registry) -> None:
    folder = home / "certs.d" / registry.address
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(
        f'server = "http://{registry.address}"\n[host."http://{locked.address}"]\ncapabilities = ["pull"]\n'
    )
    done = cli.call("explain-pull", "--hosts-dir", str(home / "certs.d"), cli.image)
    assert done.returncode == 0, done.stderr
    assert f"Hosts from: {folder}/hosts.toml" in done.stdout
    assert done.stdout.index(locked.address) < done.stdout.index(f"2. http://{registry.address}")
    assert "passed over: it is not trusted to resolve" in done.stdout


def test_what_no_host_has_is_explained(cli: Cli, home: Path, registry: Registry) -> None:
    done = cli.call("explain-pull", f"{registry.address}/nobody/has:this")
    assert (done.returncode, "nothing: no host has it" in done.stdout) == (1, True)
    assert "404" in done.stdout
    wrong = cli.call("explain-pull", "not a reference")
    assert (wrong.returncode, wrong.stdout, "Traceback" in wrong.stderr) == (1, "", False)


def test_a_helper_keeps_the_password(cli: Cli, home: Path, locked: Registry) -> None:
    name = f"{locked.address}/team/image:v1"
    (home / "config.json").write_text(json.dumps({"credHelpers": {locked.address: "drawer"}}))
    refused = cli.call("pull", "-q", name)
    assert (refused.returncode, "user name and a password" in refused.stderr) == (1, True)
    assert cli("login", "-u", "anna", "--password-stdin", locked.address, input="harbour\n") == "Login Succeeded\n"
    assert "harbour" not in (home / "config.json").read_text()
    assert cli("pull", "-q", name) == f"{name}\n"
    text = cli("explain-pull", name)
    assert "credentials:  client: user anna, from docker-credential-drawer" in text
    assert "harbour" not in text
    cli("logout", locked.address)
    assert cli.call("pull", "-q", name).returncode == 1
    calls = (home / "kept" / "calls").read_text()
    assert [line.split()[0] for line in calls.splitlines()] == ["get", "store", "get", "get", "erase", "get"]


def test_a_store_for_all_registries(cli: Cli, home: Path, locked: Registry) -> None:
    (home / "config.json").write_text(json.dumps({"credsStore": "drawer", "auths": {locked.address: {}}}))
    cli("login", "-u", "anna", "-p", "harbour", locked.address)
    assert cli("pull", "-q", f"{locked.address}/team/image:v1") != ""


@pytest.mark.parametrize(
    ("name", "script", "why"),
    [
        ("missing", "", "no such program"),
        ("broken", "#!/bin/sh\necho the drawer is stuck\nexit 3\n", "failed: the drawer is stuck"),
        ("babbling", "#!/bin/sh\necho good morning\n", "an answer that is none"),
        ("../drawer", "", "is not the name of one"),
    ],
)
def test_a_helper_that_cannot_say(cli: Cli, home: Path, locked: Registry, name: str, script: str, why: str) -> None:
    if script:
        (home / f"docker-credential-{name}").write_text(script)
        (home / f"docker-credential-{name}").chmod(0o755)
    (home / "config.json").write_text(json.dumps({"credsStore": name}))
    done = cli.call("pull", "-q", f"{locked.address}/team/image:v1")
    assert (done.returncode, why in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def test_an_image_in_another_form(cli: Cli) -> None:
    assert cli("image", "convert", "--compression", "zstd", "--oci", cli.image, "small:zstd").endswith("small:zstd\n")
    before, after = (json.loads(cli("image", "inspect", name))[0] for name in (cli.image, "small:zstd"))
    assert after["RootFS"]["Layers"] == before["RootFS"]["Layers"]
    assert cli("run", "--rm", "--pull", "never", "small:zstd", "echo", "same files") == "same files\n"
    wrong = cli.call("image", "convert", "--compression", "zstd", "nobody:has", "this:1")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)
