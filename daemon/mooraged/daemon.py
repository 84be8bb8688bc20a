"""The life of the daemon: locks, plugins, server, ready, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import stat
import threading
from contextlib import ExitStack
from pathlib import Path

from moorage_api.core import Daemon
from moorage_api.discovery import Discovery
from moorage_api.errors import FailedPrecondition, MoorageError
from moorage_api.fulfilment import contract_problem
from moorage_api.plugin import PluginType, Registration
from mooraged.config import Config, Loaded
from mooraged.graph import Graph, Plugin, State
from mooraged.locks import check_socket, exclusive
from mooraged.notify import ServiceManager
from mooraged.proxies import with_proxies
from mooraged.server import services_of
from mooraged.sockets import Sockets
from mooraged.state import log_state
from mooraged.version import VERSION

logger = logging.getLogger(__name__)

# How long calls that are under way may take once the daemon was told to stop, in seconds.
_GRACE = 2.0
# What the interpreter gets to end its threads, in seconds.
_MARGIN = 5.0


async def run(loaded: Loaded, discovery: Discovery) -> None:
    """Serve until SIGTERM or SIGINT; containers run on. A second signal ends the process at once.

    Raises `MoorageError` where the daemon cannot start: another one is there, a required plugin failed.
    """
    config = loaded.config
    manager = ServiceManager()
    stopping = _on_signals()
    with ExitStack() as held:
        _claim(config, held)
        graph = build_graph(loaded, discovery)
        sockets = Sockets(config.grpc, held)
        try:
            await _start(graph, sockets, config)
            manager.tell(f"READY=1\nMAINPID={os.getpid()}")
            logger.info("ready", extra={"address": config.grpc.address, "version": VERSION})
            await stopping.wait()
            logger.info("stopping")
        finally:
            manager.tell("STOPPING=1")
            _end_by_force(_GRACE + config.timeouts.shutdown + _MARGIN)
            await sockets.stop(_GRACE)
            await graph.stop(config.timeouts.shutdown)
    logger.info("stopped")


def build_graph(loaded: Loaded, discovery: Discovery) -> Graph:
    """The graph of what was found, and the graph itself as a plugin, for the service that shows it."""
    config = loaded.config
    failures = [
        Plugin(failure.type, failure.id, state=State.FAILED, error=failure.error) for failure in discovery.failures
    ]
    itself = Registration(PluginType.INTERNAL, "graph", lambda _: graph)
    registrations, disabled, refused = with_proxies(config, discovery.registrations)
    graph = Graph(
        [itself, *registrations],
        describe(config),
        loaded.plugins,
        disabled=disabled,
        init_deadline=config.timeouts.plugin_init,
        known_failures=[*failures, *refused],
        problem=contract_problem,
    )
    return graph


def describe(config: Config) -> Daemon:
    """What plugins are told of the daemon."""
    return Daemon(VERSION, Path(config.root), Path(config.state), config.grpc.address, config.ttrpc_address)


def _claim(config: Config, held: ExitStack) -> None:
    """Take root, state and address for this process; `FailedPrecondition` where another has one of them."""
    os.makedirs(config.root, mode=0o700, exist_ok=True)
    os.makedirs(config.state, mode=0o711, exist_ok=True)
    # The root of a user namespace is nobody on the host, and has to reach its root file system below.
    os.chmod(config.state, stat.S_IMODE(os.stat(config.state).st_mode) | 0o011)
    held.enter_context(exclusive(os.path.join(config.root, "daemon.lock"), f"root {config.root}"))
    held.enter_context(exclusive(os.path.join(config.state, "daemon.lock"), f"state {config.state}"))
    held.enter_context(exclusive(f"{config.grpc.address}.lock", f"address {config.grpc.address}"))
    check_socket(config.grpc.address)


async def _start(graph: Graph, sockets: Sockets, config: Config) -> None:
    for plugin in graph.plugins:
        if plugin.state is State.FAILED:
            logger.error("plugin cannot be loaded", extra={"plugin": plugin.uri, "error": str(plugin.error)})
    await graph.start()
    await graph.ready()
    for plugin in graph.plugins:
        if plugin.type == PluginType.GRPC and plugin.state is State.STARTED:
            _serve(sockets, plugin)
    missing = [graph.why_not(uri) for uri in config.required_plugins if not _runs(graph, uri)]
    if missing:
        raise FailedPrecondition(f"required plugins have not started: {'; '.join(missing)}")
    # What is there now stays as long as the daemon: garbage collection would look at all of it, again and again, and every
    # call would wait for that.
    gc.freeze()
    await sockets.start()


def _runs(graph: Graph, uri: str) -> bool:
    return any(plugin.uri == uri and plugin.state is State.STARTED for plugin in graph.plugins)


def _serve(sockets: Sockets, plugin: Plugin) -> None:
    try:
        for service in services_of(plugin.instance):
            sockets.add(service)
    except MoorageError as error:
        plugin.state, plugin.error = State.FAILED, error
        logger.error("service refused", extra={"plugin": plugin.uri, "error": str(error)})


def _end_by_force(seconds: float) -> None:
    """End the process in `seconds` if it is still there: a thread that hangs must not keep a daemon from stopping."""

    def end() -> None:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
        logger.error("still not stopped: ending by force", extra={"threads": names})
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; the second of them has its default effect. SIGUSR1 tells the state."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR1, log_state)
    return stopping
