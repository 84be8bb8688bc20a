"""The plugin graph: plugins sorted by what they require, started once each, stopped in reverse.

A plugin that fails is kept with its reason; only what requires it fails with it. Nothing here knows what plugins do.
"""

from __future__ import annotations

import asyncio
import graphlib
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from moorage_api.core import Daemon
from moorage_api.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, MoorageError, NotFound
from moorage_api.plugin import PluginType, Registration, SkipPlugin
from moorage_api.types import Platform
from mooraged.context import Context
from mooraged.futures import settle_soon

logger = logging.getLogger(__name__)

PREFERRED: Mapping[str, str] = {
    PluginType.CONTENT: "content",
    PluginType.SNAPSHOTTER: "overlayfs",
    PluginType.DIFFER: "walking",
    PluginType.SERVICE: "diff-service",
    PluginType.METADATA: "sqlite",
    PluginType.EVENT: "exchange",
    PluginType.GC: "scheduler",
    PluginType.SHIM: "moorage",
    PluginType.RUNTIME: "task",
    PluginType.TRANSFER: "local",
}
"""Which plugin of a type is meant where several have started and none is named."""


class State(Enum):
    """Where a plugin is."""

    WAITING = "waiting"
    STARTED = "started"
    FAILED = "failed"
    SKIPPED = "skipped"
    DISABLED = "disabled"


@dataclass(slots=True)
class Plugin:
    """One plugin as the daemon and its clients see it; `seconds` is how long its `init` took."""

    type: str
    id: str
    requires: Sequence[str] = ()
    state: State = State.WAITING
    error: MoorageError | None = None
    instance: Any = None
    seconds: float = 0.0
    exports: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    platforms: list[Platform] = field(default_factory=list)
    ready: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    stop: list[Callable[[], Awaitable[None] | None]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"{self.type}.{self.id}"


def order(registrations: Sequence[Registration]) -> list[Registration]:
    """`registrations` so that each comes after what it requires; `InvalidArgument` that prints a cycle."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    by_uri = {registration.uri: registration for registration in registrations}
    for registration in registrations:
        required = [
            other.uri
            for other in registrations
            if other.uri != registration.uri
            and matches((*registration.requires, *registration.wants), other.type.value, other.uri)
        ]
        sorter.add(registration.uri, *required)
    try:
        return [by_uri[uri] for uri in sorter.static_order()]
    except graphlib.CycleError as error:
        # graphlib lists each node before one that requires it; read backwards it says "requires".
        cycle: list[str] = list(reversed(error.args[1]))
        raise InvalidArgument(f"plugins require one another in a cycle: {' requires '.join(cycle)}") from None


def matches(requires: Iterable[str], type: str, uri: str) -> bool:
    """Whether what a plugin requires or wants covers the plugin `uri` of `type`."""
    return any(required in (type, uri) for required in requires)


class Graph:
    """All plugins of this daemon, in the order of their start."""

    def __init__(
        self,
        registrations: Sequence[Registration],
        daemon: Daemon,
        configs: Mapping[str, Any],
        *,
        disabled: Sequence[str] = (),
        init_deadline: float = 30.0,
        known_failures: Iterable[Plugin] = (),
        problem: Callable[[str, object], str] = lambda type, instance: "",
    ) -> None:
        """Sort the plugins; `InvalidArgument` for a cycle. `known_failures` are shown among the others. `problem` tells why
        an object cannot be the instance of a plugin of a type; empty where it can."""
        self._registrations = order(registrations)
        self._daemon = daemon
        self._configs = configs
        self._init_deadline = init_deadline
        self._problem = problem
        self.plugins = [
            Plugin(r.type.value, r.id, tuple(r.requires), State.DISABLED if r.uri in disabled else State.WAITING)
            for r in self._registrations
        ]
        self._by_uri = {plugin.uri: plugin for plugin in self.plugins}
        self.plugins.extend(known_failures)

    def find(self, type: str, id: str) -> Plugin | None:
        """The plugin, whatever its state."""
        return next((plugin for plugin in self.plugins if plugin.type == type and plugin.id == id), None)

    def started(self, type: str) -> dict[str, Any]:
        """The instances of the plugins of `type` that run, by id."""
        return {p.id: p.instance for p in self.plugins if p.type == type and p.state is State.STARTED}

    def failures(self, type: str) -> dict[str, MoorageError]:
        """Why the plugins of `type` failed that did, by id."""
        failed = [p for p in self.plugins if p.type == type and p.state is State.FAILED]
        return {p.id: p.error or FailedPrecondition("it failed") for p in failed}

    def require(self, type: str, id: str = "") -> Any:
        """The instance of the plugin; `NotFound`, with its reason, where it does not run."""
        if not id:
            running = self.started(type)
            preferred = PREFERRED.get(type, "")
            if len(running) == 1 or preferred in running:
                return running.get(preferred, next(iter(running.values())))
            raise NotFound(self.why_not(type) if not running else f"several plugins of type {type} run: name one")
        plugin = self.find(type, id)
        if plugin is None or plugin.state is not State.STARTED:
            raise NotFound(self.why_not(f"{type}.{id}"))
        return plugin.instance

    def why_not(self, required: str) -> str:
        """Why nothing that `required` (a type or a URI) names is running; one line."""
        named = [p for p in self.plugins if required in (p.type, p.uri)]
        if not named:
            return f"no plugin {required} is installed"
        reasons = (f"{p.uri} {p.state.value}" + (f" ({p.error})" if p.error else "") for p in named)
        return f"no plugin {required} has started: {'; '.join(reasons)}"

    async def start(self) -> None:
        """Initialise every plugin once. Failures are recorded, never raised."""
        for registration in self._registrations:
            plugin = self._by_uri[registration.uri]
            if plugin.state is not State.WAITING:
                continue
            before = time.monotonic()
            try:
                self._check_requirements(plugin)
                plugin.instance = await self._initialise(registration, plugin)
                plugin.state = State.STARTED
            except SkipPlugin as skip:
                plugin.state = State.SKIPPED
                plugin.error = FailedPrecondition(f"{skip}: skip plugin")
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; it fails alone
                self._fail(plugin, error)
            plugin.seconds = time.monotonic() - before
            _log(plugin)

    async def ready(self) -> None:
        """Let the plugins do what needs all others, in the order of their start. A failure fails that plugin."""
        for plugin in self.plugins:
            for callback in plugin.ready:
                if plugin.state is not State.STARTED:
                    break
                try:
                    await asyncio.wait_for(callback(), self._init_deadline)
                except TimeoutError:
                    self._fail(plugin, DeadlineExceeded(f"on_ready took longer than {self._init_deadline:g} s"))
                except Exception as error:  # noqa: BLE001 - as in start
                    self._fail(plugin, error)
            if plugin.state is State.FAILED and plugin.ready:
                _log(plugin)

    async def stop(self, deadline: float) -> None:
        """Stop what started, last first, all within `deadline` seconds. Failures are logged, never raised."""
        end = time.monotonic() + deadline
        for plugin in reversed(self.plugins):
            for callback in reversed(plugin.stop):
                try:
                    result = callback()
                    if inspect.isawaitable(result):
                        await asyncio.wait_for(result, max(0.1, end - time.monotonic()))
                except TimeoutError:
                    logger.error("plugin did not stop in time", extra={"plugin": plugin.uri})
                except Exception:
                    logger.exception("plugin failed to stop", extra={"plugin": plugin.uri})

    def _check_requirements(self, plugin: Plugin) -> None:
        for required in plugin.requires:
            if not any(
                p.state is State.STARTED and p is not plugin and required in (p.type, p.uri) for p in self.plugins
            ):
                raise FailedPrecondition(self.why_not(required))

    async def _initialise(self, registration: Registration, plugin: Plugin) -> Any:
        needs = (*registration.requires, *registration.wants)
        context = Context(self, plugin, needs, self._daemon, self._configs.get(registration.uri))
        try:
            async with asyncio.timeout(self._init_deadline):
                if inspect.iscoroutinefunction(registration.init):
                    instance = await registration.init(context)
                else:
                    result = await _in_thread(lambda: registration.init(context), f"init {registration.uri}")
                    instance = await result if inspect.isawaitable(result) else result
        except TimeoutError as error:
            raise DeadlineExceeded(f"init took longer than {self._init_deadline:g} s") from error
        problem = self._problem(registration.type, instance)
        if problem:
            raise InvalidArgument(problem)
        return instance

    @staticmethod
    def _fail(plugin: Plugin, error: BaseException) -> None:
        plugin.state = State.FAILED
        plugin.instance = None
        if isinstance(error, MoorageError):
            plugin.error = error
        else:
            plugin.error = FailedPrecondition(f"{type(error).__name__}: {error}")
            plugin.error.__cause__ = error


def _log(plugin: Plugin) -> None:
    fields = {"plugin": plugin.uri, "took": f"{plugin.seconds * 1000:.1f}ms"}
    if plugin.state is State.FAILED:
        cause = plugin.error.__cause__ if plugin.error else None
        logger.error("plugin failed", exc_info=cause, extra=fields | {"error": str(plugin.error)})
    elif plugin.state is State.SKIPPED:
        logger.info("plugin skipped", extra=fields | {"reason": str(plugin.error)})
    else:
        logger.debug("plugin started", extra=fields)


async def _in_thread(call: Callable[[], Any], name: str) -> Any:
    """Run a call that may hang in a daemon thread, which neither a cancelled wait nor the daemon's end waits for."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            settle_soon(future, call(), None)
        except BaseException as error:  # noqa: BLE001 - handed to the waiter whatever it is
            settle_soon(future, None, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
