"""What a container is to have of a network, in its own folder; and what containers have now, in the state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from moorage.network import files
from moorage.network.ports import Port

PLAN, HOSTS, RESOLV_CONF, ERROR = "network.json", "hosts", "resolv.conf", "network-error"


@dataclass(frozen=True, slots=True)
class Plan:
    """A container's network as its maker wanted it: enough to make it again at each start.

    `folder` is the container's own, `state` the daemon's for networks; `config` is CNI's configuration list, empty for
    a container without one.
    """

    id: str
    namespace: str
    names: tuple[str, ...]
    network: str
    folder: str
    state: str
    bin_dirs: tuple[str, ...]
    config: dict[str, Any]
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
        lists = {key: tuple(document.pop(key)) for key in ("names", "bin_dirs", "extra_hosts")}
        return cls(**{**document, **lists, "ports": ports})


@dataclass(frozen=True, slots=True)
class Attached:
    """A container's network as it is: the plan that made it, CNI's result, and the container's address."""

    plan: Plan
    result: dict[str, Any]
    address: str


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

    def tell(self, namespace: str, network: str) -> None:
        """Write the names of all containers of a network into the hosts file of each."""
        peers = [
            attached
            for attached in self.list()
            if (attached.plan.namespace, attached.plan.network) == (namespace, network)
        ]
        for own in peers:
            write_hosts(own.plan, own.address, [peer for peer in peers if peer is not own])

    def _path(self, namespace: str, id: str) -> str:
        return os.path.join(self._folder, f"{namespace}@{id}.json")


def write_hosts(plan: Plan, address: str = "", peers: Sequence[Attached] = ()) -> None:
    """Write a container's hosts file in place: the container has this very file mounted. One that is being removed has
    no folder any more, which does not matter."""
    others = [(peer.address, peer.plan.names) for peer in peers]
    data = files.hosts(plan.names, address, plan.extra_hosts, others).encode()
    try:
        fd = os.open(os.path.join(plan.folder, HOSTS), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
    return Attached(Plan.of(document["plan"]), document["result"], document["address"])
