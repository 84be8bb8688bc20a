"""hosts.toml, as containerd reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage_api.errors import FailedPrecondition
from mooraged.transfer.hosts import CAPABILITIES, Host, Tls, hosts_for, is_loopback


def write(root: Path, folder: str, text: str) -> str:
    (root / folder).mkdir(parents=True)
    (root / folder / "hosts.toml").write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("domain", "plain_http", "url", "https_first"),
    [
        ("docker.io", None, "https://registry-1.docker.io", False),
        ("docker.io", True, "https://registry-1.docker.io", False),
        ("quay.io", None, "https://quay.io", False),
        ("quay.io", True, "http://quay.io", False),
        ("localhost:5000", None, "http://localhost:5000", True),
        ("localhost:5000", True, "http://localhost:5000", False),
        ("localhost:5000", False, "https://localhost:5000", False),
        ("127.0.0.9:5000", None, "http://127.0.0.9:5000", True),
        ("[::1]:5000", None, "http://[::1]:5000", True),
        ("localhost", None, "https://localhost", False),
        ("localhost:443", None, "https://localhost:443", False),
        ("localhost:80", None, "http://localhost:80", False),
    ],
)
def test_without_a_file(domain: str, plain_http: bool | None, url: str, https_first: bool) -> None:
    (host,) = hosts_for(domain, "", plain_http)
    assert (str(host), host.path, host.capabilities) == (url, "/v2", CAPABILITIES)
    assert host.tries_https_first is https_first


def test_mirrors_come_in_order_and_the_server_last(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        "docker.io",
        """
server = "https://registry-1.docker.io"
[host."https://mirror.example/team"]
  capabilities = ["pull"]
  dial_timeout = "1m30s"
  [host."https://mirror.example/team".header]
    x-one = "1"
    x-many = ["a", "b"]
[host."http://10.0.0.1:5000/v2"]
[host."other.example/odd"]
  override_path = true
  capabilities = ["Pull", "resolve"]
""",
    )
    first, second, third, server = hosts_for("docker.io", root)
    assert (str(first), first.path, first.capabilities) == ("https://mirror.example", "/team/v2", {"pull"})
    assert first.headers == (("x-one", "1"), ("x-many", "a"), ("x-many", "b"))
    assert first.dial_timeout == 90
    assert (str(second), second.path) == ("http://10.0.0.1:5000", "/v2")
    assert (str(third), third.path, third.capabilities) == ("https://other.example", "/odd", {"pull", "resolve"})
    assert str(server) == "https://registry-1.docker.io"
    assert first.is_mirror_of("docker.io")
    assert not server.is_mirror_of("docker.io")


def test_settings_without_a_server_are_the_registrys(tmp_path: Path) -> None:
    root = write(tmp_path, "quay.io", 'ca = "own.pem"\nskip_verify = false\n[header]\nx-a = "b"\n')
    (host,) = hosts_for("quay.io", root)
    assert str(host) == "https://quay.io"
    assert host.tls == Tls((str(tmp_path / "quay.io" / "own.pem"),), (), False)
    assert host.headers == (("x-a", "b"),)


def test_files_are_relative_to_the_folder_unless_absolute(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        "a.example",
        'server = "https://a.example"\nca = ["one.pem", "/two.pem"]\nclient = ["both.pem", ["c.pem", "/k.pem"]]\n',
    )
    (host,) = hosts_for("a.example", root)
    folder = tmp_path / "a.example"
    assert host.tls.ca == (str(folder / "one.pem"), "/two.pem")
    assert host.tls.client == ((str(folder / "both.pem"), ""), (str(folder / "c.pem"), "/k.pem"))


def test_folders_with_a_port_and_the_default(tmp_path: Path) -> None:
    write(tmp_path, "_default", 'server = "https://everything.example"')
    write(tmp_path, "a.example_5000_", 'server = "https://underscores.example"')
    write(tmp_path, "b.example:5000", 'server = "https://colon.example"')
    found = {
        name: str(hosts_for(name, str(tmp_path))[-1]) for name in ("a.example:5000", "b.example:5000", "c.example")
    }
    assert found == {
        "a.example:5000": "https://underscores.example",
        "b.example:5000": "https://colon.example",
        "c.example": "https://everything.example",
    }


def test_the_first_of_several_folders_counts(tmp_path: Path) -> None:
    write(tmp_path / "one", "a.example", 'server = "https://one.example"')
    write(tmp_path / "two", "a.example", 'server = "https://two.example"')
    write(tmp_path / "two", "b.example", 'server = "https://b.example"')
    path = f"{tmp_path / 'missing'}:{tmp_path / 'one'}:{tmp_path / 'two'}"
    assert str(hosts_for("a.example", path)[0]) == "https://one.example"
    assert str(hosts_for("b.example", path)[0]) == "https://b.example"


def test_docker_certificates_without_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.example:5000"
    folder.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "lone.cert", "notes.txt"):
        (folder / name).touch()
    (host,) = hosts_for("a.example:5000", str(tmp_path))
    assert host.tls.ca == (str(folder / "ca.crt"),)
    assert host.tls.client == (
        (str(folder / "client.cert"), str(folder / "client.key")),
        (str(folder / "lone.cert"), ""),
    )


def test_a_plain_http_host_with_tls_settings_is_tried_over_tls_first(tmp_path: Path) -> None:
    root = write(tmp_path, "a.example", 'server = "http://a.example:5000"\nskip_verify = true\n')
    assert hosts_for("a.example", root)[0].tries_https_first
    assert not Host("http", "a.example:80", tls=Tls(skip_verify=True)).tries_https_first


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = ", "hosts.toml"),
        ("server = 3", "Expected `str`"),
        ('[host."https://a"]\nca = 3', "ca"),
        ('[host."https://a"]\ncapabilities = ["fly"]', "unknown capability 'fly'"),
        ('[host."https://a"]\nclient = [["a", "b", "c"]]', "pair"),
        ('[host."https://a"]\ndial_timeout = "soon"', "duration"),
        ('[host."ftp://a"]', "URL"),
        ('[host."https://"]', "URL"),
        ('[host."https://user:secret@a"]', "credentials"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    root = write(tmp_path, "a.example", text)
    with pytest.raises(FailedPrecondition, match=why) as caught:
        hosts_for("a.example", root)
    assert str(tmp_path / "a.example" / "hosts.toml") in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("domain", ["localhost", "localhost:1", "127.1.2.3:5000", "[::1]", "[::1]:5000"])
def test_loopback(domain: str) -> None:
    assert is_loopback(domain)


@pytest.mark.parametrize("domain", ["docker.io", "128.0.0.1", "localhost.example", "[::2]:5000", "10.0.0.1:80"])
def test_not_loopback(domain: str) -> None:
    assert not is_loopback(domain)
