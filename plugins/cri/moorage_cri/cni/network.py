"""The network of pods: made by a chain of plugins, taken down by the same chain in reverse, as often as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from moorage_api.cni.call import Attachment, Result, request
from moorage_api.cni.config import NetworkConfig
from moorage_api.cni.result import addresses
from moorage_api.errors import MoorageError
from moorage_cri.cni.cache import Cache, Entry
from moorage_cri.cni.config import ConfigFolder
from moorage_cri.cni.plugin import Plugins

logger = logging.getLogger(__name__)

# DEL reads prevResult since version 0.4.0.
_DEL_WITH_RESULT = (0, 4, 0)
_RETRY_FIRST = 1.0
_RETRY_LONGEST = 60.0

Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A pod's network as it stands: its addresses, the preferred one first, and the whole result."""

    addresses: tuple[str, ...]
    result: Result


class Network:
    """Attaches pods to the configured network. `spawn` keeps the task of a DEL that is tried again."""

    def __init__(self, configs: ConfigFolder, plugins: Plugins, cache: Cache, preference: str, spawn: Spawn) -> None:
        self._configs = configs
        self._plugins = plugins
        self._cache = cache
        self._preference = preference
        self._spawn = spawn
        self._retrying: set[str] = set()

    def config(self) -> NetworkConfig:
        """The network that pods are attached to now. `Unavailable`, with the reason, where there is none."""
        return self._configs.current()

    async def attach(self, attachment: Attachment) -> PodNetwork:
        """Make a pod's network.

        On an error or cancellation, part of it may be there: `detach` takes that down. Errors: those of the
        configuration, and those of a plugin.
        """
        config = self._configs.current()
        for plugin in config.plugins:
            # Better now than when half of the network is made.
            self._plugins.find(plugin["type"])
        entry = Entry(attachment, config)
        self._cache.save(entry)
        result: Result = {}
        for number, plugin in enumerate(config.plugins):
            previous = result if number else None
            result = await self._plugins.call(
                "ADD", attachment, request(config.version, config.name, plugin, attachment.capabilities, previous)
            )
        self._cache.save(entry.with_result(result))
        return PodNetwork(tuple(addresses(result, attachment.interface, self._preference)), result)

    def restore(self, id: str) -> PodNetwork | None:
        """The network that an earlier run of the daemon made for a pod; None where it made none, or not wholly."""
        entry = self._cache.load(id)
        if entry is None or entry.result is None:
            return None
        found = addresses(entry.result, entry.attachment.interface, self._preference)
        return PodNetwork(tuple(found), entry.result)

    def known(self) -> list[str]:
        """The pods whose network has not been taken down."""
        return self._cache.ids()

    async def detach(self, id: str, *, netns: bool = True) -> None:
        """Take a pod's network down; without a network, at once. `netns`: whether its namespace is still there.

        One plugin's failure does not keep the others from taking down what is theirs; the first failure is raised at
        the end. What failed stays recorded: `detach_later` tries until it succeeds.
        """
        entry = self._cache.load(id)
        if entry is None:
            return
        attachment = entry.attachment if netns else replace(entry.attachment, netns="")
        config = entry.network
        version = tuple(map(int, config.version.split(".")))
        previous = entry.result if version >= _DEL_WITH_RESULT else None
        failures: list[MoorageError] = []
        for plugin in reversed(config.plugins):
            asked = request(config.version, config.name, plugin, attachment.capabilities, previous)
            try:
                await self._plugins.call("DEL", attachment, asked)
            except MoorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        self._cache.remove(id)

    def detach_later(self, id: str) -> None:
        """Take a pod's network down in the background, without its namespace, again and again until that succeeds."""
        if id not in self._retrying:
            self._retrying.add(id)
            self._spawn(f"network of pod {id}", self._retry(id))

    async def _retry(self, id: str) -> None:
        pause = _RETRY_FIRST
        try:
            while True:
                try:
                    await self.detach(id, netns=False)
                except MoorageError as error:
                    logger.warning("the network of pod %s is not down yet, next try in %g s: %s", id, pause, error)
                else:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_LONGEST)
        finally:
            self._retrying.discard(id)
