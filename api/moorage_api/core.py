"""What a client has of the daemon: the same handles for a plugin inside and for a program outside.

`Core` is given to plugins as the instance of (`PluginType.INTERNAL`, "core"). The CRI plugin stands on this and on
nothing else of the core.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from moorage_api.containers import ContainerStore
from moorage_api.content import ContentStore
from moorage_api.differ import Differ
from moorage_api.events import EventBus
from moorage_api.images import ImageStore
from moorage_api.leases import LeaseManager
from moorage_api.namespaces import NamespaceStore
from moorage_api.runtime import TaskManager
from moorage_api.sandboxes import SandboxController, SandboxStore
from moorage_api.snapshots import Snapshotter
from moorage_api.transfer import Transfer

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where this daemon lives. `ttrpc_address` is where shims publish their events."""

    version: str
    root: Path
    state: Path
    address: str
    ttrpc_address: str


class Stores(Protocol):
    """Where the images of one namespace are. With a lease bound, what is written is added to that lease."""

    @property
    def namespace(self) -> str: ...

    @property
    def content(self) -> ContentStore: ...

    @property
    def images(self) -> ImageStore: ...

    @property
    def leases(self) -> LeaseManager: ...

    def snapshotter(self, name: str = "") -> Snapshotter:
        """By plugin id; empty for the default. `NotFound`, with the names there are."""


class View(Stores, Protocol):
    """All that is stored of one namespace."""

    @property
    def containers(self) -> ContainerStore: ...

    @property
    def sandboxes(self) -> SandboxStore: ...

    def batch(self) -> AbstractContextManager[None]:
        """Changes of what is stored that this thread makes within the block share one sync to disk: all of them survive a
        power cut once it is left. A power cut within it loses none or some, the last ones first."""


@runtime_checkable
class Namespaced(View, Protocol):
    """All that one namespace holds: what is stored of it, and what runs."""

    @property
    def sandbox_controller(self) -> SandboxController: ...

    @property
    def tasks(self) -> TaskManager: ...

    @property
    def transfer(self) -> Transfer: ...


@runtime_checkable
class Core(Protocol):
    """The daemon's services."""

    @property
    def daemon(self) -> Daemon: ...

    @property
    def namespaces(self) -> NamespaceStore: ...

    @property
    def events(self) -> EventBus: ...

    @property
    def differ(self) -> Differ: ...

    @property
    def default_snapshotter(self) -> str:
        """The id of the snapshotter that an empty name means; empty where there is none."""

    def namespaced(self, namespace: str, lease: str = "") -> Namespaced:
        """Bind a namespace, once. `InvalidArgument` for a malformed name; a lease that is not there is `NotFound` for the
        first write under it."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run a synchronous call (a store, a snapshotter) in a thread of the daemon's pool."""
