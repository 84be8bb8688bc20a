"""What a container is to have of a network, in its own folder; and what containers have now, in the state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from moorage.network import files
from moorage.network.ports import Port

PLAN, HOSTS, RESOLV_CONF, ERROR = "network.json", "hosts", "resolv.conf", "network-error"


@dataclass(frozen=True, slots=True)
class Join:
    """One network of a container: its name and CNI's configuration list for it, the container's interface in it, the
    further names that it has there, and the address that was asked for (empty: any)."""

    network: str
    interface: str
    config: dict[str, Any]
    aliases: tuple[str, ...] = ()
    address: str = ""

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "aliases": tuple(document["aliases"])})


@dataclass(frozen=True, slots=True)
class Plan:
    """A container's networks as its maker wanted them: enough to make them again at each start.

    `folder` is the container's own, `state` the daemon's for networks. Published ports lead in by the first network.
    """

    id: str
    namespace: str
    name: str
    names: tuple[str, ...]
    folder: str
    state: str
    bin_dirs: tuple[str, ...]
    joins: tuple[Join, ...] = ()
    ports: tuple[Port, ...] = ()
    extra_hosts: tuple[str, ...] = ()

    def save(self) -> None:
        write(os.path.join(self.folder, PLAN), json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: str) -> Self:
        """`OSError`, `ValueError`, `TypeError` for what is none."""
        with open(os.path.join(folder, PLAN), encoding="utf-8") as file:
            return cls.of(json.load(file))

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """From what JSON gave."""
        ports = tuple(Port(**port) for port in document.pop("ports"))
        joins = tuple(map(Join.of, document.pop("joins")))
        lists = {key: tuple(document.pop(key)) for key in ("names", "bin_dirs", "extra_hosts")}
        return cls(**{**document, **lists, "ports": ports, "joins": joins})

    def join(self, network: str) -> Join | None:
        """How it is in a network of that name; None where it is not."""
        return next((join for join in self.joins if join.network == network), None)


@dataclass(frozen=True, slots=True)
class Link:
    """A container in one network, as it is: CNI's result, and the container's address."""

    join: Join
    result: dict[str, Any]
    address: str

    @property
    def gateway(self) -> str:
        """Empty in a network without a way out."""
        return next((str(entry["gateway"]) for entry in self.result.get("ips", ()) if "gateway" in entry), "")

    @property
    def mac(self) -> str:
        """The address of the container's interface."""
        return next((str(entry["mac"]) for entry in self.result.get("interfaces", ()) if entry.get("sandbox")), "")


@dataclass(frozen=True, slots=True)
class Attached:
    """A container's networks as they are, and the plan that made them."""

    plan: Plan
    links: tuple[Link, ...] = ()

    def link(self, network: str) -> Link | None:
        """What it has of a network of that name; None where it is not in it."""
        return next((link for link in self.links if link.join.network == network), None)


class Records:
    """The containers that are attached now, a file each; `with records.locked()` around what must not be torn."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._folder = os.path.join(state, "attached")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time: who adds a container tells the others of it."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        with open(os.path.join(self._state, "lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def get(self, namespace: str, id: str) -> Attached | None:
        """None where it is not attached."""
        try:
            with open(self._path(namespace, id), encoding="utf-8") as file:
                return _attached(json.load(file))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def list(self) -> list[Attached]:
        """All, of every namespace."""
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        found = [self.get(*name.removesuffix(".json").split("@", 1)) for name in names if name.endswith(".json")]
        return [attached for attached in found if attached is not None]

    def put(self, attached: Attached) -> None:
        """In place of an earlier one."""
        write(self._path(attached.plan.namespace, attached.plan.id), json.dumps(asdict(attached)))

    def remove(self, namespace: str, id: str) -> None:
        """One that is not there does not matter."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(namespace, id))

    def tell(self, namespace: str, networks: Iterable[str], id: str = "") -> None:
        """Write the names of all containers of these networks into the hosts file of each, and of the container `id`."""
        changed = set(networks)
        everyone = [attached for attached in self.list() if attached.plan.namespace == namespace]
        for own in everyone:
            if own.plan.id == id or any(link.join.network in changed for link in own.links):
                write_hosts(own, [peer for peer in everyone if peer is not own])

    def _path(self, namespace: str, id: str) -> str:
        return os.path.join(self._folder, f"{namespace}@{id}.json")


def write_hosts(own: Attached, peers: Sequence[Attached] = ()) -> None:
    """Write a container's hosts file in place: the container has this very file mounted. One that is being removed has
    no folder any more, which does not matter."""
    others = [
        (there.address, (*peer.plan.names, *there.join.aliases))
        for link in own.links
        for peer in peers
        if (there := peer.link(link.join.network)) is not None
    ]
    addresses = [link.address for link in own.links]
    data = files.hosts(own.plan.names, addresses, own.plan.extra_hosts, others).encode()
    try:
        fd = os.open(os.path.join(own.plan.folder, HOSTS), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write a file whole, in place of an earlier one."""
    scratch = f"{path}.{os.getpid()}.tmp"
    with open(scratch, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(scratch, path)


def _attached(document: dict[str, Any]) -> Attached:
    links = [Link(Join.of(link["join"]), link["result"], link["address"]) for link in document["links"]]
    return Attached(Plan.of(document["plan"]), tuple(links))
