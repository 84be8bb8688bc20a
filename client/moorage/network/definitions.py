"""The networks that are defined: a CNI configuration list each, in a folder of the namespace."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moorage_api.cni.config import NetworkConfig, of_document
from moorage_api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

DEFAULT = "bridge"
BUILT_IN = (DEFAULT, "host", "none")
_WITHOUT_CNI = {"host": "host", "none": "null"}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_ENDING = ".conflist"
_KEY = "moorage"
"""Where a configuration list keeps what CNI knows nothing of."""
_VERSION = "1.0.0"
_PREFIX = 24
_PREFIX_MAX = 30


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon keeps its networks, and what those that say nothing else get."""

    conf_dir: str
    state: str
    bin_dirs: tuple[str, ...]
    bridge: str
    subnets: str


@dataclass(frozen=True, slots=True)
class Network:
    """One network. `subnet` is a prefix (`10.61.0.0/24`); `created` RFC 3339, empty where unknown."""

    name: str
    id: str
    bridge: str
    subnet: str
    gateway: str
    created: str = ""
    internal: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    driver: str = "bridge"


class Networks:
    """The networks of one namespace. Blocks on nothing but small files."""

    def __init__(self, place: Place, namespace: str) -> None:
        self.place = place
        self._folder = os.path.join(place.conf_dir, namespace)

    def get(self, name: str) -> Network:
        """By name, or by an id or its beginning. `NotFound`."""
        found = [network for network in self.list() if name and (network.name == name or network.id.startswith(name))]
        exact = [network for network in found if network.name == name]
        if len(exact or found) != 1:
            raise NotFound(
                f"no such network: {name}" if not found else f"several networks have ids that begin with {name}"
            )
        return (exact or found)[0]

    def list(self) -> list[Network]:
        """All, by name."""
        others = [Network(name, _id(name), "", "", "", driver=driver) for name, driver in _WITHOUT_CNI.items()]
        return sorted([self._default(), *others, *_read(self._folder)], key=lambda network: network.name)

    def create(
        self, name: str, *, subnet: str = "", gateway: str = "", internal: bool = False, labels: Mapping[str, str] = {}
    ) -> Network:
        """Define a network. `AlreadyExists`, `InvalidArgument`, `FailedPrecondition` where no subnet is free."""
        if _NAME.fullmatch(name) is None:
            raise InvalidArgument(f"invalid network name {name!r}: expected letters, digits, '_', '.' and '-'")
        if name in BUILT_IN or os.path.exists(self._path(name)):
            raise AlreadyExists(f"network {name} exists already")
        taken = list(self._taken())
        prefix = _prefix(subnet) if subnet else self._free(taken)
        for other in taken:
            if prefix.overlaps(other):
                raise FailedPrecondition(f"subnet {prefix} overlaps with {other}, which another network has")
        id = secrets.token_hex(32)
        network = Network(
            name=name,
            id=id,
            bridge=f"mr-{id[:12]}",
            subnet=str(prefix),
            gateway=_gateway(gateway, prefix),
            created=dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            internal=internal,
            labels=labels,
        )
        self._write(self._path(name), network)
        return network

    def remove(self, network: Network) -> None:
        """Forget a network. `FailedPrecondition` for one that is always there."""
        if network.name in BUILT_IN:
            raise FailedPrecondition(f"{network.name} is a network that is always there: it cannot be removed")
        try:
            os.unlink(self._path(network.name))
        except FileNotFoundError:
            raise NotFound(f"no such network: {network.name}") from None

    def config(self, network: Network) -> NetworkConfig:
        """What CNI's plugins are given. `FailedPrecondition` for a network that is none of CNI's."""
        if network.name in _WITHOUT_CNI:
            raise FailedPrecondition(
                f"no container can be put into the network {network.name}: it is made with it, or not"
            )
        return of_document(_document(network, self.place.state), network.name)

    def _default(self) -> Network:
        pool = ipaddress.IPv4Network(self.place.subnets)
        prefix = next(pool.subnets(new_prefix=_prefix_length(pool)))
        return Network(DEFAULT, _id(DEFAULT), self.place.bridge, str(prefix), _gateway("", prefix))

    def _free(self, taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
        pool = ipaddress.IPv4Network(self.place.subnets)
        for prefix in pool.subnets(new_prefix=_prefix_length(pool)):
            if not any(prefix.overlaps(other) for other in taken):
                return prefix
        raise FailedPrecondition(f"no subnet is free in {pool}: remove a network, or name a subnet")

    def _taken(self) -> Iterator[ipaddress.IPv4Network]:
        """What the networks of every namespace have, and what the host has routes for."""
        yield ipaddress.IPv4Network(self._default().subnet)
        for folder in _folders(self.place.conf_dir):
            for network in _read(folder.path):
                yield ipaddress.IPv4Network(network.subnet)
        yield from _routes()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}{_ENDING}")

    def _write(self, path: str, network: Network) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        scratch = f"{path}.{os.getpid()}.tmp"
        with open(scratch, "w", encoding="utf-8") as file:
            json.dump(_document(network, self.place.state), file, indent=2)
        os.replace(scratch, path)


def _prefix_length(pool: ipaddress.IPv4Network) -> int:
    """What a network gets of a pool: a /24, or a quarter of a pool that is small."""
    return min(max(_PREFIX, pool.prefixlen + 2), 30)


def _id(name: str) -> str:
    """The id of a network that is always there."""
    return hashlib.sha256(f"moorage network {name}".encode()).hexdigest()


def _document(network: Network, state: str) -> dict[str, Any]:
    """A network as a configuration list of bridge, host-local and portmap."""
    ranges = [[{"subnet": network.subnet, "gateway": network.gateway}]]
    ipam: dict[str, Any] = {"type": "host-local", "ranges": ranges, "dataDir": os.path.join(state, "ipam")}
    if not network.internal:
        ipam["routes"] = [{"dst": "0.0.0.0/0"}]
    bridge = {
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": not network.internal,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    own = {
        "id": network.id,
        "name": network.name,
        "created": network.created,
        "internal": network.internal,
        "labels": dict(network.labels),
    }
    # host-local keeps its addresses by the network's name, which another namespace may use, too.
    return {"cniVersion": _VERSION, "name": network.bridge, "plugins": [bridge, portmap], _KEY: own}


def _read(folder: str) -> Iterator[Network]:
    """The networks in a folder; a file that is none of ours is passed over."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(_ENDING))
    except FileNotFoundError:
        return
    for name in names:
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                yield _network(json.load(file))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue


def _network(document: dict[str, Any]) -> Network:
    own, bridge = document[_KEY], document["plugins"][0]
    prefix = bridge["ipam"]["ranges"][0][0]
    return Network(
        name=own["name"],
        id=own["id"],
        bridge=bridge["bridge"],
        subnet=prefix["subnet"],
        gateway=prefix["gateway"],
        created=own["created"],
        internal=own["internal"],
        labels=own["labels"],
    )


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _prefix(text: str) -> ipaddress.IPv4Network:
    try:
        prefix = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid subnet {text!r}: {error}") from None
    if prefix.prefixlen > _PREFIX_MAX:
        raise InvalidArgument(
            f"invalid subnet {text!r}: it has no room for a gateway and a container, as a /{_PREFIX_MAX} has"
        )
    return prefix


def _gateway(text: str, prefix: ipaddress.IPv4Network) -> str:
    if not text:
        return str(next(prefix.hosts()))
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid gateway {text!r}: {error}") from None
    if address not in prefix:
        raise InvalidArgument(f"gateway {address} is not in the subnet {prefix}")
    return str(address)


def check_address(network: Network, text: str) -> None:
    """`InvalidArgument` for what is no address of a network; empty is any."""
    if not text:
        return
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid address {text!r}: {error}") from None
    if address not in ipaddress.IPv4Network(network.subnet):
        raise InvalidArgument(f"address {text} is not in the subnet {network.subnet} of the network {network.name}")


def _routes() -> Iterator[ipaddress.IPv4Network]:
    """The prefixes that the host has routes for, but the default route (`/proc/net/route`, in the host's byte order)."""
    with open("/proc/net/route", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            destination, mask = (int.from_bytes(bytes.fromhex(fields[n])[::-1], "big") for n in (1, 7))
            if mask:
                yield ipaddress.IPv4Network((destination, mask.bit_count()))
