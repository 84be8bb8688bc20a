"""How plugins join and leave."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Protocol

from moorage_api.errors import MoorageError, Unavailable
from moorage_api.wire import nri_pb2 as pb
from moorage_cri.background import Background
from moorage_cri.concurrency import finish
from moorage_cri.nri.chain import Chain
from moorage_cri.nri.config import NriConfig
from moorage_cri.nri.connection import Connection, Gone
from moorage_cri.nri.gate import Busy, Gate
from moorage_cri.nri.launch import Installed, Process, installed
from moorage_cri.nri.ledger import Ledger
from moorage_cri.nri.plugin import Plugin
from moorage_cri.nri.validator import Validator

logger = logging.getLogger(__name__)

_RUNTIME = "moorage"
# How long a plugin that joins may keep new calls waiting until those under way have ended, in seconds; and when it
# tries again.
_PATIENCE = 2.0
_AGAIN = 5.0


class Domain(Protocol):
    """Whose pods and containers plugins are told of."""

    async def state(self) -> tuple[list[pb.PodSandbox], list[pb.Container]]:
        """All that there is, noted in the ledger. Nothing changes meanwhile."""

    async def change(
        self, plugin: str, updates: Sequence[pb.ContainerUpdate], evictions: Sequence[pb.ContainerEviction] = ()
    ) -> list[pb.ContainerUpdate]:
        """Update and stop containers as `plugin` wants it; returns the updates that failed and may not."""


class Registry:
    """The plugins that take part. Who makes, changes or removes a pod or a container does so in `gate`, and tells
    `chain` of it. `listener` is the socket to which plugins connect, if they may; without a configuration there is no
    NRI."""

    def __init__(self, config: NriConfig | None = None, listener: socket.socket | None = None) -> None:
        self.gate = Gate()
        self.ledger = Ledger()
        self._config = config
        self._listener = listener
        rules = config.default_validator if config is not None else None
        self.chain = Chain(Validator(rules) if rules is not None and rules.enable else None)
        self._background = Background()
        self._server: asyncio.Server | None = None
        self._joining = False  # whether a plugin is being told of all that there is: one at a time

    @property
    def idle(self) -> bool:
        """Whether there is nobody to ask or to tell, not in a moment either: then nothing of this costs anything."""
        return self.chain.idle and not self._joining

    async def start(self, domain: Domain, version: str) -> None:
        """Start the installed plugins and wait until each has joined or failed; then let others connect. `version` is
        the daemon's."""
        if self._config is None:
            return
        config, self._domain, self._version = self._config, domain, version
        found = await asyncio.to_thread(installed, config.plugin_path, config.plugin_config_path)
        await asyncio.gather(*(self._launch(each) for each in found))
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._connected, sock=self._listener)

    async def stop(self) -> None:
        """Let go of all plugins, which ends those that the daemon has started."""
        if self._server is not None:
            self._server.close()
        elif self._listener is not None:
            self._listener.close()
        await self._background.stop()
        if self._server is not None:
            await self._server.wait_closed()

    async def change(
        self, plugin: str, updates: Sequence[pb.ContainerUpdate], evictions: Sequence[pb.ContainerEviction] = ()
    ) -> list[pb.ContainerUpdate]:
        """What plugins want of containers, as the domain does it."""
        return await self._domain.change(plugin, updates, evictions)

    def _connected(self) -> Connection:
        plugin = self._plugin()
        self._background.start("NRI plugin", self._admit(plugin, asyncio.Event()))
        return plugin.connection

    async def _launch(self, program: Installed) -> None:
        """Start a plugin, and return when it has joined or failed."""
        try:
            process = Process(program)
        except Unavailable as error:
            logger.error("%s", error)
            return
        joined = asyncio.Event()
        plugin = self._plugin(program)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: plugin.connection, process.ours)
        self._background.start(f"NRI plugin {plugin.id}", self._admit(plugin, joined, process))
        await joined.wait()

    def _plugin(self, program: Installed | None = None) -> Plugin:
        assert self._config is not None
        return Plugin(self._config.plugin_request_timeout, self._wish, program)

    async def _wish(self, plugin: Plugin, request: pb.UpdateContainersRequest) -> pb.UpdateContainersResponse:
        """A plugin wants changes without having been asked."""
        return pb.UpdateContainersResponse(failed=await self.change(plugin.id, request.update, request.evict))

    async def _admit(self, plugin: Plugin, settled: asyncio.Event, process: Process | None = None) -> None:
        """From the connection to its end. `settled` is set when the plugin takes part, or is known not to."""
        try:
            await self._welcome(plugin)
            settled.set()
            logger.info("NRI plugin %s has joined", plugin.id)
            await plugin.connection.closed.wait()
            logger.info("NRI plugin %s has left", plugin.id)
        except MoorageError as error:
            logger.warning("NRI plugin %s cannot join: %s", plugin.id, error)
        finally:
            self.chain.remove(plugin)
            plugin.connection.close()
            settled.set()
            if process is not None:
                await finish(process.end())

    async def _welcome(self, plugin: Plugin) -> None:
        assert self._config is not None
        registration = self._config.plugin_registration_timeout
        await plugin.wait_registered(registration)
        await plugin.configure(_RUNTIME, self._version, registration)
        updates = await self._synchronize(plugin)
        while updates is None:
            logger.warning("NRI plugin %s waits until a call has ended that takes long", plugin.id)
            await self._pause(plugin)
            updates = await self._synchronize(plugin)
        # Not while everybody waits: what holds a container may be among those who do.
        await self.change(plugin.id, updates)

    async def _synchronize(self, plugin: Plugin) -> list[pb.ContainerUpdate] | None:
        """Tell a plugin of all that there is; from then on it takes part. None where calls that hang prevent it."""
        try:
            async with self.gate.look(_PATIENCE):
                # What ends from now on waits at the gate, also if this is the first plugin, and is told to it.
                self._joining = True
                try:
                    updates = await plugin.synchronize(*await self._domain.state())
                    self.chain.add(plugin)
                finally:
                    self._joining = False
                return updates
        except Busy:
            return None

    async def _pause(self, plugin: Plugin) -> None:
        try:
            async with asyncio.timeout(_AGAIN):
                await plugin.connection.closed.wait()
        except TimeoutError:
            return
        raise Gone("it left before it was synchronised")
