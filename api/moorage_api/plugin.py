"""Plugins: how a backend or a service makes itself known to the daemon.

A distribution names a module in the entry-point group `moorage.plugins`; the module implements the hook
`moorage_register` and returns its registrations. Built-in plugins use the same path. The daemon sorts registrations by
`requires`, initialises each once, and shows every failure with its reason.

    from moorage_api.plugin import InitContext, PluginType, Registration, hookimpl

    def init(context: InitContext[MyConfig]) -> Snapshotter: ...

    @hookimpl
    def moorage_register() -> list[Registration]:
        return [Registration(PluginType.SNAPSHOTTER, "mine", init, config=MyConfig)]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pluggy

from moorage_api.core import Daemon
from moorage_api.errors import MoorageError
from moorage_api.types import Platform, TypedValue

PROJECT = "moorage"
ENTRY_POINTS = "moorage.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

C_co = TypeVar("C_co", covariant=True)


class PluginType(StrEnum):
    """The kinds of plugins; the values are containerd's, so that its clients recognise them."""

    CONTENT = "io.containerd.content.v1"
    SNAPSHOTTER = "io.containerd.snapshotter.v1"
    DIFFER = "io.containerd.differ.v1"
    METADATA = "io.containerd.metadata.v1"
    EVENT = "io.containerd.event.v1"
    LEASE = "io.containerd.lease.v1"
    GC = "io.containerd.gc.v1"
    SHIM = "io.containerd.shim.v1"
    RUNTIME = "io.containerd.runtime.v2"
    SANDBOX_STORE = "io.containerd.sandbox.store.v1"
    SANDBOX_CONTROLLER = "io.containerd.sandbox.controller.v1"
    TRANSFER = "io.containerd.transfer.v1"
    IMAGE_VERIFIER = "io.containerd.image-verifier.v1"
    STREAMING = "io.containerd.streaming.v1"
    MOUNT_MANAGER = "io.containerd.mount-manager.v1"
    INTERNAL = "io.containerd.internal.v1"
    SERVICE = "io.containerd.service.v1"
    GRPC = "io.containerd.grpc.v1"
    TTRPC = "io.containerd.ttrpc.v1"
    NRI = "io.containerd.nri.v1"


@runtime_checkable
class Describable(Protocol):
    """An instance that tells more of itself than its registration does, when it is asked with a request of its own
    (`containerd.services.introspection.v1`, `PluginInfo`)."""

    async def plugin_info(self, request: TypedValue) -> TypedValue | None:
        """`InvalidArgument` for a request of another kind; None for nothing to tell."""


class InitContext(Protocol[C_co]):
    """What a plugin is given when it is initialised."""

    @property
    def config(self) -> C_co:
        """The plugin's own configuration, an instance of what it registered."""

    @property
    def root(self) -> Path:
        """A folder of its own that survives a reboot (`<root>/<type>.<id>`), made at the first use, mode 0700."""

    @property
    def state(self) -> Path:
        """A folder of its own that a reboot clears (`<state>/<type>.<id>`), made at the first use, mode 0700."""

    @property
    def daemon(self) -> Daemon: ...

    @property
    def exports(self) -> dict[str, str]:
        """What the plugin tells clients of itself (`Introspection.Plugins`), for example its root folder."""

    @property
    def capabilities(self) -> list[str]:
        """Capabilities that it shows to clients."""

    @property
    def platforms(self) -> list[Platform]:
        """The platforms that it serves, shown to clients."""

    def get(self, type: str, id: str = "") -> Any:
        """The instance of a required plugin; without an id, the only or the default one of its type.

        `NotFound` where it is not there or failed, with its reason; `FailedPrecondition` where neither `requires` nor `wants`
        has it.
        """

    def get_all(self, type: str) -> dict[str, Any]:
        """All that started of a required or wanted type, by id."""

    def failures(self, type: str) -> dict[str, MoorageError]:
        """Why those of a required or wanted type did not start that failed, by id: for who may not do without them."""

    def on_ready(self, start: Callable[[], Awaitable[None]]) -> None:
        """Await `start` when every plugin is initialised, before the daemon says that it is ready."""

    def on_stop(self, stop: Callable[[], Awaitable[None] | None]) -> None:
        """Call `stop` when the daemon stops; last registered, first called."""


@dataclass(frozen=True)
class Registration:
    """One plugin. `requires` holds types (`PluginType.CONTENT`) or single plugins (`io.containerd.content.v1.local`).

    Of what it `requires`, at least one must have started, else the plugin fails; what it `wants` is started before it
    where it is there, and may be missing or have failed.

    `init` runs in a thread of its own, under a deadline; an `async` one runs on the daemon's event loop. It returns
    the instance, or an awaitable of it; raising means that the plugin failed, raising `SkipPlugin` that it does not
    apply here. `config` is None or a frozen `msgspec.Struct` class with a default for every field, each field annotated
    with `msgspec.Meta(description=…)`.
    """

    type: PluginType
    id: str
    init: Callable[[Any], object]
    requires: Sequence[str] = ()
    config: Any = None
    documentation: str = field(default="", compare=False)
    wants: Sequence[str] = ()

    @property
    def uri(self) -> str:
        """`type.id`, as configuration and clients name it."""
        return f"{self.type.value}.{self.id}"


class SkipPlugin(Exception):
    """Raised by `init` where the plugin does not apply: a file system without overlay, a missing binary."""


class HookSpecs:
    """Every hook that the daemon calls."""

    @hookspec
    def moorage_register(self) -> Sequence[Registration]:  # type: ignore[empty-body]
        """Return the plugins that this module offers."""
