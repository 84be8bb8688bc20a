"""What a plugin is given when it is initialised: the daemon's side of `moorage_api.plugin.InitContext`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moorage_api.core import Daemon
from moorage_api.errors import FailedPrecondition, MoorageError
from moorage_api.types import Platform

if TYPE_CHECKING:
    from mooraged.graph import Graph, Plugin


class Context:
    """One plugin's view of the graph: what it requires, and places of its own."""

    def __init__(self, graph: Graph, plugin: Plugin, needs: Sequence[str], daemon: Daemon, config: Any) -> None:
        self._graph = graph
        self._plugin = plugin
        self._needs = needs
        self._daemon = daemon
        self._config = config

    @property
    def config(self) -> Any:
        return self._config

    @property
    def root(self) -> Path:
        return self._folder(self._daemon.root)

    @property
    def state(self) -> Path:
        return self._folder(self._daemon.state)

    @property
    def daemon(self) -> Daemon:
        return self._daemon

    @property
    def exports(self) -> dict[str, str]:
        return self._plugin.exports

    @property
    def capabilities(self) -> list[str]:
        return self._plugin.capabilities

    @property
    def platforms(self) -> list[Platform]:
        return self._plugin.platforms

    def get(self, type: str, id: str = "") -> Any:
        type = str(type)
        named = {type, f"{type}.{id}"} if id else {type}
        alone = not id and any(need.startswith(f"{type}.") for need in self._needs)
        if not alone and named.isdisjoint(self._needs):
            raise FailedPrecondition(f"{self._plugin.uri} does not require {type}: add it to its registration")
        return self._graph.require(type, id)

    def get_all(self, type: str) -> dict[str, Any]:
        type = str(type)
        if type not in self._needs:
            raise FailedPrecondition(f"{self._plugin.uri} does not require {type}: add it to its registration")
        return self._graph.started(type)

    def failures(self, type: str) -> dict[str, MoorageError]:
        return self._graph.failures(str(type))

    def on_ready(self, start: Callable[[], Awaitable[None]]) -> None:
        self._plugin.ready.append(start)

    def on_stop(self, stop: Callable[[], Awaitable[None] | None]) -> None:
        self._plugin.stop.append(stop)

    def _folder(self, parent: Path) -> Path:
        folder = parent / self._plugin.uri
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
