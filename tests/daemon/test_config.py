"""The configuration file: what is accepted, what is refused and how, and what is printed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from click.testing import CliRunner

from moorage_api.discovery import discover
from moorage_api.plugin import PluginType, Registration
from mooraged.cli import main
from mooraged.config import Config, ConfigError, Loaded, Overrides, load, render
from mooraged.config.lines import line_of


class Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table within a plugin's table."""

    paths: Annotated[list[str], msgspec.Meta(description="Some paths.")] = msgspec.field(
        default_factory=lambda: ["/a", "/b c"]
    )


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plugin's configuration."""

    mode: Annotated[Literal["fast", "safe"], msgspec.Meta(description="How.")] = "safe"
    limit: Annotated[int, msgspec.Meta(ge=1, description="At most this many.")] = 10
    where: Annotated[Path, msgspec.Meta(description="Where to.")] = Path("/x")
    maybe: Annotated[str | None, msgspec.Meta(description="May be left out.")] = None
    labels: Annotated[dict[str, str], msgspec.Meta(description="Labels.")] = {}
    nested: Nested = Nested()


URI = "io.containerd.content.v1.local"
REGISTRATIONS = [
    Registration(PluginType.CONTENT, "local", lambda _: None, config=Options),
    Registration(PluginType.GRPC, "version", lambda _: None),
]


def read(tmp_path: Path, text: str, *, complete: bool = True, overrides: Overrides = Overrides()) -> Loaded:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(str(path), overrides, REGISTRATIONS, complete=complete)


def problems(tmp_path: Path, text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert all(problem.file == str(tmp_path / "config.toml") for problem in caught.value.problems)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    loaded = read(tmp_path, "")
    assert loaded.config == Config()
    assert loaded.plugins == {URI: Options()}
    assert loaded.config.ttrpc_address == "/run/moorage/moorage.sock.ttrpc"


def test_values_reach_the_daemon_and_its_plugins(tmp_path: Path) -> None:
    text = f"""
version = 3
root = "/srv/moorage"
[grpc]
address = "/srv/m.sock"
[plugins."{URI}"]
mode = "fast"
where = "/y"
[plugins."{URI}".nested]
paths = []
"""
    loaded = read(tmp_path, text)
    assert loaded.config.root == "/srv/moorage"
    assert loaded.config.grpc.address == "/srv/m.sock"
    assert loaded.plugins[URI] == Options(mode="fast", where=Path("/y"), nested=Nested(paths=[]))


def test_flags_override_the_file(tmp_path: Path) -> None:
    flags = Overrides(address="/b.sock", level="trace", format="json", root="/r", state="/s")
    config = read(tmp_path, 'root = "/srv"\n[debug]\nlevel = "error"\n', overrides=flags).config
    assert (config.root, config.state, config.grpc.address) == ("/r", "/s", "/b.sock")
    assert (config.debug.level, config.debug.format) == ("trace", "json")


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("rooot = '/x'", 1, "rooot", "unknown key; did you mean root?"),
        ("\n\n[grpc]\n# a comment\nuid = 'me'", 5, "grpc.uid", "expected int, got str"),
        ("[grpc]\nuid = -1", 2, "grpc.uid", "expected int >= 0"),
        ("[debug]\nlevel = 'loud'", 2, "debug.level", "expected one of trace, debug, info, warn, error, fatal, panic, got 'loud'"),
        ("version = 2", 1, "version", "expected 3, got 2"),
        ("grpc = 3", 1, "grpc", "expected object, got int"),
        ("root = 'here'", 1, "root", "expected an absolute path, got 'here'"),
        ("root = '/x'\nstate = '/x'", 2, "state", "expected a folder other than root, got '/x'"),
        ("disabled_plugins = ['io.containerd.content.v1.lokal']", 1, "disabled_plugins",
         f"no such plugin: io.containerd.content.v1.lokal; did you mean {URI}?"),
        (f"[plugins.'{URI}']\n\nlimits = 3", 3, f'plugins."{URI}".limits', "unknown key; did you mean limit?"),
        (f"[plugins.'{URI}'.nested]\npaths = [\n 'a',\n 3,\n]", 2, f'plugins."{URI}".nested.paths',
         "expected str, got int - at $[1]"),
        (f"[plugins.'{URI}']\nwhere = 3", 2, f'plugins."{URI}".where', "expected Path, got int"),
        ("[plugins.'io.containerd.content.v1.locl']", 1, 'plugins."io.containerd.content.v1.locl"',
         f"no such plugin; did you mean {URI}?"),
        ("[plugins.'io.containerd.grpc.v1.version']\nx = 1", 2, 'plugins."io.containerd.grpc.v1.version".x',
         "unknown key: this plugin has no configuration"),
        ("[proxy_plugins.mine]\naddres = '/a'", 2, "proxy_plugins.mine.addres", "unknown key; did you mean address?"),
    ],
)  # fmt: skip
def test_an_error_says_line_key_and_expectation(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    assert problems(tmp_path, text) == [(line, key, message)]


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "rot = 1\nstat = 2\n[grpc]\nuid = 'x'\ngid = 'y'\n[debug]\nlevel = 1\n")
    assert [line for line, _, _ in found] == [1, 2, 4, 5, 7]


def test_a_socket_path_that_the_kernel_would_refuse(tmp_path: Path) -> None:
    [(line, key, message)] = problems(tmp_path, f"[grpc]\naddress = '/{'x' * 110}'")
    assert (line, key) == (2, "grpc.address")
    assert message.startswith("expected at most 101 bytes for a socket's path")


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("root = '/a'\nroot = '/b'\n", 2, "Cannot overwrite a value"),
        ("a = 1\nb = = 2\n", 2, "Invalid value (column 5)"),
        ("root = ", 1, "end of"),
    ],
)
def test_what_is_not_toml(tmp_path: Path, text: str, line: int, part: str) -> None:
    [(found, key, message)] = problems(tmp_path, text)
    assert (found, key) == (line, "")
    assert message.startswith("not TOML: ")
    assert part in message


def test_plugins_in_other_processes(tmp_path: Path) -> None:
    text = "[proxy_plugins.stargz]\ntype = 'snapshot'\naddress = '/run/s.sock'\n"
    loaded = read(tmp_path, text)
    assert loaded.warnings == []
    assert loaded.config.proxy_plugins["stargz"].address == "/run/s.sock"
    required = read(tmp_path, f"required_plugins = ['io.containerd.snapshotter.v1.stargz']\n{text}")
    assert required.config.required_plugins == ["io.containerd.snapshotter.v1.stargz"]


@pytest.mark.parametrize(
    ("table", "line", "key"),
    [
        ("[proxy_plugins.a]\naddress = 'relative'\n", 2, "proxy_plugins.a.address"),
        ("[proxy_plugins.a]\n", 1, "proxy_plugins.a.address"),
        ("[proxy_plugins.a]\ntype = 'shim'\naddress = '/a'\n", 2, "proxy_plugins.a.type"),
        ("[proxy_plugins.'a b']\naddress = '/a'\n", 1, 'proxy_plugins."a b"'),
    ],
)
def test_plugins_in_other_processes_that_cannot_be(tmp_path: Path, table: str, line: int, key: str) -> None:
    [(found, name, _)] = problems(tmp_path, table)
    assert (found, name) == (line, key)


def test_an_address_may_be_written_as_a_uri(tmp_path: Path) -> None:
    assert read(tmp_path, "[grpc]\naddress = 'unix:///a.sock'").config.grpc.address == "/a.sock"


def test_a_missing_file_is_an_error_only_when_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(str(tmp_path / "absent.toml"), Overrides(), REGISTRATIONS)


def test_a_plugin_that_could_not_be_imported_is_a_warning(tmp_path: Path) -> None:
    loaded = read(tmp_path, "\n[plugins.'io.containerd.grpc.v1.cri']\nx = 1", complete=False)
    assert [(w.line, w.key) for w in loaded.warnings] == [(2, 'plugins."io.containerd.grpc.v1.cri"')]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("b", "c"), 6),
        (("b", "d"), 8),
        (("b", "e"), 12),
        (("f", "g.h"), 14),
        (("i", "j", "k"), 16),
        (("b", "absent"), 5),
        (("absent",), 0),
    ],
)
def test_the_line_of_a_key(path: tuple[str, ...], line: int) -> None:
    lines = ["a = '''", "b = 1", "'''", "", "[b]", "c = 1", "# d = 2", "d = [", " 1,", "]"]
    lines += ["", "e = 3", "[f]", '"g.h" = 2', "[i.j]", "k = 3"]
    assert line_of("\n".join(lines), path) == line


def test_what_is_printed_is_read_back_the_same(tmp_path: Path) -> None:
    options = Options(limit=3, labels={"a.b": 'x"\\\x7f\n', "c": "é"}, nested=Nested(paths=["/α"]))
    config = Config(disabled_plugins=[URI])
    text = render(config, {URI: options}, REGISTRATIONS)
    loaded = read(tmp_path, text)
    assert loaded.plugins == {URI: options}
    assert msgspec.structs.replace(loaded.config, plugins={}) == config


def test_every_key_is_printed_with_its_description() -> None:
    text = render(Config(), {URI: Options()}, REGISTRATIONS)
    lines = text.splitlines()
    assert lines[lines.index("limit = 10") - 1] == "# At most this many."
    assert lines[lines.index("# maybe =") - 1] == "# May be left out."
    assert lines[lines.index(f'[plugins."{URI}".nested]') - 1] == "# A table within a plugin's table."


def test_every_key_of_an_installed_plugin_is_described() -> None:
    bare: list[str] = []

    def look(struct: type[msgspec.Struct], where: str) -> None:
        for field in msgspec.structs.fields(struct):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                look(field.type, f"{where}.{field.encode_name}")
            elif not any(getattr(m, "description", "") for m in getattr(field.type, "__metadata__", ())):
                bare.append(f"{where}.{field.encode_name}")

    look(Config, "")
    for registration in discover().registrations:
        if registration.config is not None:
            look(registration.config, registration.uri)
    assert bare == []


def test_the_command_prints_defaults_that_are_valid(tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["config", "default"])
    assert printed.exit_code == 0
    path = tmp_path / "config.toml"
    path.write_text(printed.stdout)
    assert tomllib.loads(printed.stdout)["version"] == 3
    assert CliRunner().invoke(main, ["-c", str(path), "config", "check"]).exit_code == 0


def test_the_command_checks(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("version = 3\n[grpc]\nadress = '/x'\nuid = 'root'\n")
    checked = CliRunner().invoke(main, ["--config", str(path), "config", "check"])
    assert checked.exit_code == 1
    assert f"mooraged: {path}:3: grpc.adress: unknown key; did you mean address?" in checked.stderr
    assert f"mooraged: {path}:4: grpc.uid: expected int, got str" in checked.stderr


def test_the_command_dumps_what_the_daemon_would_run_with(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("root = '/srv/a'\n[grpc]\ngid = 7\n")
    dumped = CliRunner().invoke(main, ["-c", str(path), "-a", "/srv/m.sock", "-l", "debug", "config", "dump"])
    document = tomllib.loads(dumped.stdout)
    assert document["root"] == "/srv/a"
    assert document["grpc"]["address"] == "/srv/m.sock"
    assert document["grpc"]["gid"] == 7
    assert document["debug"]["level"] == "debug"
