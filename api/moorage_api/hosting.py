"""Start one installed plugin outside of a daemon: for `moorage plugin serve`, and for tests."""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from moorage_api.core import Daemon
from moorage_api.discovery import Discovery, discover
from moorage_api.errors import FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.plugin import PluginType, Registration, SkipPlugin
from moorage_api.types import Platform

SERVED = (PluginType.SNAPSHOTTER, PluginType.CONTENT, PluginType.DIFFER)
"""What can be served to others."""


@dataclass
class LoneContext:
    """`moorage_api.plugin.InitContext` for a plugin that is alone: it can require no other."""

    config: Any
    root: Path
    state: Path
    daemon: Daemon
    exports: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    platforms: list[Platform] = field(default_factory=list)
    _stops: list[Callable[[], Awaitable[None] | None]] = field(default_factory=list)

    def get(self, type: str, id: str = "") -> Any:
        raise NotFound(f"plugin {type}{'.' if id else ''}{id}: a plugin that is served alone has no others beside it")

    def get_all(self, type: str) -> dict[str, Any]:
        return {}

    def on_ready(self, start: Callable[[], Awaitable[None]]) -> None:
        raise FailedPrecondition("a plugin that is served alone gets no call when a daemon is ready")

    def on_stop(self, stop: Callable[[], Awaitable[None] | None]) -> None:
        self._stops.append(stop)

    def stop(self) -> None:
        """Call what was registered with `on_stop`, last first."""
        while self._stops:
            self._stops.pop()()


def find(name: str, found: Discovery | None = None) -> Registration:
    """The installed plugin `name`, an id or a whole `TYPE.ID`. `NotFound`, with the names there are or the reason."""
    found = found or discover()
    offered = [registration for registration in found.registrations if registration.type in SERVED]
    matching = [registration for registration in offered if name in (registration.id, registration.uri)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InvalidArgument(f"several plugins are called {name}: {', '.join(r.uri for r in matching)}")
    for failure in found.failures:
        if name in (failure.id, f"{failure.type}.{failure.id}"):
            raise FailedPrecondition(f"plugin {name} cannot be loaded: {failure.error}")
    raise NotFound(f"no plugin {name} is installed that can be served; there are {', '.join(r.uri for r in offered)}")


def start(registration: Registration, root: Path, state: Path, config: str = "") -> tuple[Any, LoneContext]:
    """Initialise the plugin on folders of its own; `config` is its table as TOML. Returns the instance and its context.

    `InvalidArgument` for a configuration that does not hold; `FailedPrecondition` where it does not start.
    """
    for folder in (root, state):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    daemon = Daemon(version("moorage"), root, state, "", "")
    context = LoneContext(_configured(registration, config), root, state, daemon)
    try:
        instance = registration.init(context)
    except SkipPlugin as skip:
        raise FailedPrecondition(f"plugin {registration.uri} does not apply here: {skip}") from skip
    except MoorageError:
        raise
    except Exception as error:
        raise FailedPrecondition(f"plugin {registration.uri} did not start: {type(error).__name__}: {error}") from error
    return instance, context


def _configured(registration: Registration, text: str) -> Any:
    try:
        table = tomllib.loads(text)
        if registration.config is None:
            if table:
                raise InvalidArgument(f"plugin {registration.uri} has no configuration")
            return None
        return msgspec.convert(table, registration.config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"configuration of {registration.uri}: {error}") from error
