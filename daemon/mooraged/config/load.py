"""Read the configuration file, lay the flags over it, and check all of it against the plugins that there are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from moorage_api.errors import InvalidArgument
from moorage_api.plugin import Registration
from moorage_api.types import check_identifier
from mooraged.config.check import decode
from mooraged.config.lines import line_of
from mooraged.config.problems import ConfigError, KeyPath, Problem, dotted, nearest
from mooraged.config.schema import DEFAULT_PATH, Config, proxy_uri

# The kernel's limit for the path of a Unix socket, without the closing zero byte; `.ttrpc` and `.lock` are added to it.
_SOCKET_PATH_MAX = 107 - len(".ttrpc")


@dataclass(frozen=True, slots=True)
class Overrides:
    """Flags; empty means not given."""

    address: str = ""
    level: str = ""
    format: str = ""
    root: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds: the daemon's, and each plugin's own by URI. `warnings` are worth a log line."""

    config: Config
    plugins: Mapping[str, Any]
    warnings: Sequence[Problem] = field(default=())


class _Source:
    """One file's text and the problems found in it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.problems: list[Problem] = []

    def report(self, path: KeyPath, message: str) -> None:
        self.problems.append(self.problem(path, message))

    def problem(self, path: KeyPath, message: str) -> Problem:
        return Problem(self.name, line_of(self.text, path), dotted(path), message)


def load(
    path: str | None,
    overrides: Overrides,
    registrations: Sequence[Registration],
    *,
    complete: bool = True,
) -> Loaded:
    """The configuration in `path` (None: the default file, which need not exist) under `overrides`.

    With `complete` false, some plugins could not be imported: tables of unknown plugins are then warnings. Raises
    `ConfigError` with every problem found.
    """
    source = _read(path)
    document = _parse(source)
    config = decode(Config, document, (), source.report) or Config()
    plugins, warnings = _plugin_tables(source, config, registrations, complete)
    _check_lists(source, config, registrations, complete)
    _check_proxies(source, config)
    config = _apply(config, overrides)
    _check_values(source, config)
    if source.problems:
        raise ConfigError(source.problems)
    return Loaded(config, plugins, warnings)


def _read(path: str | None) -> _Source:
    name = path or DEFAULT_PATH
    try:
        with open(name, encoding="utf-8") as file:
            return _Source(name, file.read())
    except FileNotFoundError:
        if path is None:
            return _Source(name, "")
        raise ConfigError([Problem(name, 0, "", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {error}")]) from None


def _parse(source: _Source) -> dict[str, Any]:
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r" \(at line (\d+), column (\d+)\)", message)
        line = int(place[1]) if place else len(source.text.splitlines())
        column = f" (column {place[2]})" if place else " (at the end of the file)"
        text = message.split(" (at ", maxsplit=1)[0]
        raise ConfigError([Problem(source.name, line, "", f"not TOML: {text}{column}")]) from None


def _plugin_tables(
    source: _Source, config: Config, registrations: Sequence[Registration], complete: bool
) -> tuple[dict[str, Any], list[Problem]]:
    structs: dict[str, type[msgspec.Struct] | None] = {r.uri: r.config for r in registrations}
    decoded: dict[str, Any] = {uri: struct() for uri, struct in structs.items() if struct is not None}
    warnings: list[Problem] = []
    for uri, table in config.plugins.items():
        path = ("plugins", uri)
        if uri not in structs:
            problem = source.problem(path, f"no such plugin{nearest(uri, structs)}")
            (source.problems if complete else warnings).append(problem)
            continue
        struct = structs[uri]
        if struct is None:
            for key in table:
                source.report((*path, key), "unknown key: this plugin has no configuration")
            continue
        instance = decode(struct, table, path, source.report)
        if instance is not None:
            decoded[uri] = instance
    return decoded, warnings


def _check_lists(source: _Source, config: Config, registrations: Sequence[Registration], complete: bool) -> None:
    proxies = {proxy_uri(name, proxy) for name, proxy in config.proxy_plugins.items()}
    known = {r.uri for r in registrations} | proxies
    for key, uris in (("disabled_plugins", config.disabled_plugins), ("required_plugins", config.required_plugins)):
        for uri in uris:
            if uri not in known and (complete or key == "required_plugins"):
                source.report((key,), f"no such plugin: {uri}{nearest(uri, known)}")
    for uri in (set(config.disabled_plugins) & set(config.required_plugins)) - proxies:
        source.report(("required_plugins",), f"{uri} is in disabled_plugins too")


def _check_proxies(source: _Source, config: Config) -> None:
    for name, proxy in config.proxy_plugins.items():
        path = ("proxy_plugins", name)
        try:
            check_identifier(name, "name")
        except InvalidArgument as error:
            source.report(path, str(error))
        if not proxy.address.removeprefix("unix://").startswith("/"):
            source.report((*path, "address"), f"expected an absolute path, got {proxy.address!r}")


def _apply(config: Config, flags: Overrides) -> Config:
    changes: dict[str, Any] = {}
    if flags.root:
        changes["root"] = flags.root
    if flags.state:
        changes["state"] = flags.state
    address = (flags.address or config.grpc.address).removeprefix("unix://")
    changes["grpc"] = msgspec.structs.replace(config.grpc, address=address)
    if flags.level or flags.format:
        changes["debug"] = msgspec.structs.replace(
            config.debug, level=flags.level or config.debug.level, format=flags.format or config.debug.format
        )
    return msgspec.structs.replace(config, **changes)


def _check_values(source: _Source, config: Config) -> None:
    """What no type can say: paths that are absolute and folders that differ."""
    address = config.grpc.address
    for path, value in ((("root",), config.root), (("state",), config.state), (("grpc", "address"), address)):
        if not value.startswith("/"):
            source.report(path, f"expected an absolute path, got {value!r}")
    if config.root == config.state:
        source.report(("state",), f"expected a folder other than root, got {config.state!r}")
    if len(address.encode()) > _SOCKET_PATH_MAX:
        source.report(
            ("grpc", "address"), f"expected at most {_SOCKET_PATH_MAX} bytes for a socket's path: {address!r}"
        )
