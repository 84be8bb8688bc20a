"""`Core`: the daemon's parts under one roof, each looked up when it is asked for.

Only the metadata and the event bus must be there. Of the others a daemon may lack one (a runtime that failed to start):
whoever asks for it then gets `Unavailable` with the reason, and everything else works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from moorage_api.containers import ContainerStore
from moorage_api.content import ContentStore
from moorage_api.core import Daemon, Namespaced, View
from moorage_api.differ import Differ
from moorage_api.errors import NotFound, Unavailable
from moorage_api.events import EventBus
from moorage_api.images import ImageStore
from moorage_api.leases import LeaseManager
from moorage_api.namespaces import NamespaceStore
from moorage_api.plugin import PluginType
from moorage_api.runtime import TaskManager
from moorage_api.sandboxes import SandboxController, SandboxStore
from moorage_api.snapshots import Snapshotter
from moorage_api.transfer import Transfer
from mooraged.core.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Metadata(Protocol):
    """The instance of the METADATA plugin."""

    @property
    def namespaces(self) -> NamespaceStore: ...

    @property
    def default_snapshotter(self) -> str: ...

    def bind(self, namespace: str, lease: str = "") -> View: ...


class Runtime(Protocol):
    """The instance of the RUNTIME plugin."""

    def tasks(self, namespace: str) -> TaskManager: ...

    def sandboxes(self, namespace: str) -> SandboxController: ...


class TransferService(Protocol):
    """The instance of the TRANSFER plugin."""

    def bind(self, namespace: str) -> Transfer: ...


class Parts:
    """The other plugins, by type; `find` raises `NotFound` with the reason for one that does not run."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def differ(self) -> Differ:
        part: Differ = self._get(PluginType.SERVICE)
        return part

    def runtime(self) -> Runtime:
        part: Runtime = self._get(PluginType.RUNTIME)
        return part

    def transfer(self) -> TransferService:
        part: TransferService = self._get(PluginType.TRANSFER)
        return part

    def _get(self, type: str) -> Any:
        try:
            return self._find(type)
        except NotFound as error:
            raise Unavailable(str(error)) from error


class BoundNamespace:
    """All that one namespace holds (`moorage_api.core.Namespaced`)."""

    def __init__(self, view: View, parts: Parts) -> None:
        self._view = view
        self._parts = parts

    @property
    def namespace(self) -> str:
        return self._view.namespace

    @property
    def content(self) -> ContentStore:
        return self._view.content

    @property
    def images(self) -> ImageStore:
        return self._view.images

    @property
    def containers(self) -> ContainerStore:
        return self._view.containers

    @property
    def leases(self) -> LeaseManager:
        return self._view.leases

    @property
    def sandboxes(self) -> SandboxStore:
        return self._view.sandboxes

    @property
    def sandbox_controller(self) -> SandboxController:
        return self._parts.runtime().sandboxes(self.namespace)

    @property
    def tasks(self) -> TaskManager:
        return self._parts.runtime().tasks(self.namespace)

    @property
    def transfer(self) -> Transfer:
        return self._parts.transfer().bind(self.namespace)

    def batch(self) -> AbstractContextManager[None]:
        return self._view.batch()

    def snapshotter(self, name: str = "") -> Snapshotter:
        return self._view.snapshotter(name)


class LocalCore:
    """The daemon's services, inside the daemon (`moorage_api.core.Core`)."""

    def __init__(self, daemon: Daemon, metadata: Metadata, events: EventBus, parts: Parts, threads: int) -> None:
        self._daemon = daemon
        self._metadata = metadata
        self._events = events
        self._parts = parts
        self._threads = Threads(threads, "core")

    @property
    def daemon(self) -> Daemon:
        return self._daemon

    @property
    def namespaces(self) -> NamespaceStore:
        return self._metadata.namespaces

    @property
    def events(self) -> EventBus:
        return self._events

    @property
    def differ(self) -> Differ:
        return self._parts.differ()

    @property
    def default_snapshotter(self) -> str:
        return self._metadata.default_snapshotter

    def namespaced(self, namespace: str, lease: str = "") -> Namespaced:
        return BoundNamespace(self._metadata.bind(namespace, lease), self._parts)

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return self._threads.run(partial(call, *args, **kwargs))

    def close(self) -> None:
        """Start no more calls; those that run go on to their end."""
        self._threads.close()
