"""Which hosts serve a registry's images, in which order, and how to talk to each: `hosts.toml`.

Source: containerd's registry host configuration (https://github.com/containerd/containerd/blob/main/docs/hosts.md). Two
things differ on purpose. A file that does not parse is an error that names the file, where containerd logs it and goes
on without it; a mirror that was meant to be used would silently not be. And `config_path` may list several folders,
separated by colons, as CRI's does.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from moorage_api.errors import FailedPrecondition

DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
PULL, RESOLVE, PUSH, REFERRERS = "pull", "resolve", "push", "referrers"
CAPABILITIES = frozenset({PULL, RESOLVE, PUSH, REFERRERS})
DIAL_TIMEOUT = 30.0

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|ns|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True)
class Tls:
    """`ca` adds to the system's authorities; `client` holds pairs of certificate and key file, the key perhaps empty
    where the certificate's file has it; `skip_verify` None means that nobody said."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool | None = None

    @property
    def configured(self) -> bool:
        return bool(self.ca or self.client) or self.skip_verify is not None


@dataclass(frozen=True, slots=True)
class Host:
    """A host to ask. `address` is its name with the port if there is one; `path` is the root of its API."""

    scheme: str
    address: str
    path: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float = DIAL_TIMEOUT
    origin: str = field(default="the registry itself", compare=False)
    """Why it is asked, for people."""

    @property
    def tries_https_first(self) -> bool:
        """Plain HTTP was asked for, and TLS configured: the port alone does not tell, so TLS is tried before."""
        return self.scheme == "http" and self.tls.configured and urlsplit(f"//{self.address}").port != 80

    def is_mirror_of(self, domain: str) -> bool:
        """Whether the host must be told (`?ns=`) whose images are meant."""
        return self.address != domain and (self.address, domain) != (DOCKER_HUB_HOST, DOCKER_HUB)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


class HostTable(msgspec.Struct, frozen=True):
    """The settings of one host. Unknown keys are for other readers of the file, and ignored."""

    capabilities: list[str] = []
    ca: str | list[str] = []
    client: str | list[str | list[str]] = []
    skip_verify: bool | None = None
    header: dict[str, str | list[str]] = {}
    override_path: bool = False
    dial_timeout: str = ""


class HostsFile(HostTable, frozen=True):
    """A whole `hosts.toml`: settings of the server itself, and the hosts to try before it, in order."""

    server: str = ""
    host: dict[str, HostTable] = {}


def hosts_for(domain: str, config_path: str = "", plain_http: bool | None = None) -> list[Host]:
    """The hosts for the images of `domain` (`docker.io`, `quay.io`, `localhost:5000`), in the order to try.

    `config_path` holds folders of `<host[_port_]|host:port|_default>/hosts.toml`, separated by colons; `plain_http`
    chooses the scheme of the server where no file names it. `FailedPrecondition` for a file that cannot be used.
    """
    folder = _folder_of(domain, config_path)
    configured = _read_folder(folder) if folder else [_Partial()]
    return [part.host or _origin(domain, part.tls, part.headers, part.dial_timeout, plain_http) for part in configured]


def config_for(domain: str, config_path: str) -> str:
    """The file that `hosts_for` reads, or the folder of certificates where there is none; empty for neither."""
    folder = _folder_of(domain, config_path)
    if folder is None:
        return ""
    path = folder / "hosts.toml"
    return str(path if path.exists() else folder)


def is_loopback(domain: str) -> bool:
    """Whether the host of `domain` (with or without port) is this machine."""
    name = urlsplit(f"//{domain}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Partial:
    """A host as configured; without `host`, the settings apply to the registry itself."""

    host: Host | None = None
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float = field(default=DIAL_TIMEOUT)


def _origin(
    domain: str, tls: Tls, headers: tuple[tuple[str, str], ...], dial_timeout: float, plain_http: bool | None
) -> Host:
    if domain == DOCKER_HUB:
        return Host("https", DOCKER_HUB_HOST, tls=tls, headers=headers, dial_timeout=dial_timeout)
    port = urlsplit(f"//{domain}").port
    loopback = is_loopback(domain)
    if plain_http is None:
        scheme = "http" if loopback and port not in (None, 443) else "https"
        if loopback and port != 80:
            tls = replace(tls, skip_verify=True)
    else:
        scheme = "http" if plain_http else "https"
    return Host(scheme, domain, tls=tls, headers=headers, dial_timeout=dial_timeout)


def _folder_of(domain: str, config_path: str) -> Path | None:
    name, _, port = domain.rpartition(":")
    names = [f"{name}_{port}_"] if name and port.isdecimal() else []
    for root in filter(None, config_path.split(":")):
        for candidate in (*names, domain, "_default"):
            folder = Path(root, candidate)
            if folder.is_dir():
                return folder
    return None


def _read_folder(folder: Path) -> list[_Partial]:
    path = folder / "hosts.toml"
    try:
        data = path.read_bytes()
        if not data.strip():
            return [_docker_certificates(folder)]
        file = msgspec.toml.decode(data, type=HostsFile)
        hosts = [_host(server, table, folder, f'[host."{server}"] in {path}') for server, table in file.host.items()]
        return [*hosts, _host(file.server, file, folder, f"server in {path}")]
    except FileNotFoundError:
        return [_docker_certificates(folder)]
    except (msgspec.DecodeError, ValueError, OSError) as error:
        raise FailedPrecondition(f"{path}: {error}") from error


def _host(server: str, table: HostTable, folder: Path, origin: str) -> _Partial:
    tls = Tls(
        tuple(str(folder / name) for name in _strings(table.ca)), tuple(_pairs(table.client, folder)), table.skip_verify
    )
    headers = tuple((name, value) for name, values in table.header.items() for value in _strings(values))
    timeout = seconds(table.dial_timeout) if table.dial_timeout else DIAL_TIMEOUT
    unknown = {name.lower() for name in table.capabilities} - CAPABILITIES
    if unknown:
        raise ValueError(f"unknown capability {min(unknown)!r}: expected {', '.join(sorted(CAPABILITIES))}")
    if not server:
        return _Partial(None, tls, headers, timeout)
    url = urlsplit(server if "://" in server else f"https://{server}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{server!r} is not the URL of a host: expected http:// or https:// and a name")
    if url.username is not None or url.password is not None:
        raise ValueError(f"the URL of {url.hostname!r} holds credentials: they do not belong into it")
    capabilities = frozenset(name.lower() for name in table.capabilities) or CAPABILITIES
    root = _api_root(url.path, table.override_path)
    return _Partial(Host(url.scheme, url.netloc, root, capabilities, tls, headers, timeout, origin))


def _api_root(path: str, override: bool) -> str:
    root = posixpath.normpath("/" + path).replace("//", "/").rstrip("/")
    return root if override or root.endswith("/v2") else root + "/v2"


def _strings(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _pairs(value: str | list[str | list[str]], folder: Path) -> Iterable[tuple[str, str]]:
    for entry in [value] if isinstance(value, str) else value:
        match entry:
            case str():
                yield str(folder / entry), ""
            case [certificate, key]:
                yield str(folder / certificate), str(folder / key)
            case _:
                raise ValueError("an entry of `client` is one file, or a pair of certificate and key")


def _docker_certificates(folder: Path) -> _Partial:
    """Docker's own layout: `*.crt` are authorities, `*.cert` client certificates with a `*.key` beside them."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    authorities = tuple(str(folder / name) for name in names if name.endswith(".crt"))
    clients = []
    for name in names:
        if name.endswith(".cert"):
            key = folder / f"{name.removesuffix('.cert')}.key"
            clients.append((str(folder / name), str(key) if key.exists() else ""))
    return _Partial(tls=Tls(authorities, tuple(clients)))


def seconds(text: str) -> float:
    """A duration as Go writes it: `30s`, `1m30s`, `500ms`. `ValueError`."""
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a duration: expected for example '30s' or '1m30s'")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
