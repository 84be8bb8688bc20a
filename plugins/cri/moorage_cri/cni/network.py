"""The network of pods: made by a chain of plugins, taken down by the same chain in reverse, as often as it takes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from moorage_api.cni.call import Attachment, Result, request
from moorage_api.cni.config import NetworkConfig
from moorage_api.cni.result import addresses
from moorage_api.errors import MoorageError
from moorage_cri.cni.cache import Cache, Entry
from moorage_cri.cni.config import ConfigFolder
from moorage_cri.cni.plugin import Plugins
from moorage_cri.cni.turns import Turns
from moorage_cri.concurrency import finish

logger = logging.getLogger(__name__)

# DEL reads prevResult since version 0.4.0.
_DEL_WITH_RESULT = (0, 4, 0)
_RETRY_FIRST = 1.0
_RETRY_LONGEST = 30.0
# More than this many chains of plugins at once only wait for one another: for the lock of iptables, above all.
_LEAVING_AT_ONCE = 4

P = ParamSpec("P")
T = TypeVar("T")
Spawn = Callable[[str, Coroutine[Any, Any, None]], object]


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A pod's network as it stands: its addresses, the preferred one first, and the whole result."""

    addresses: tuple[str, ...]
    result: Result


class Network:
    """Attaches pods to the configured network. `spawn` keeps the task of a DEL that goes on in the background."""

    def __init__(self, configs: ConfigFolder, plugins: Plugins, cache: Cache, preference: str, spawn: Spawn) -> None:
        self._configs = configs
        self._plugins = plugins
        self._cache = cache
        self._preference = preference
        self._spawn = spawn
        # The pods that are being taken down in the background; set when that has been tried once.
        self._leaving: dict[str, asyncio.Event] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(_LEAVING_AT_ONCE)
        self._turns = Turns(len(os.sched_getaffinity(0)))

    def config(self) -> NetworkConfig:
        """The network that pods are attached to now. `Unavailable`, with the reason, where there is none."""
        return self._configs.current()

    async def attach(self, attachment: Attachment) -> PodNetwork:
        """Make a pod's network: `prepare` and `add`."""
        return await self.add(await self.prepare(attachment))

    async def prepare(self, attachment: Attachment) -> Entry:
        """Note down the network that a pod is about to get. From here on `detach` has to be called. Errors: those of the
        configuration; `NotFound` for a plugin that is not there."""
        config = self._configs.current()
        for plugin in config.plugins:
            # Better now than when half of the network is made.
            self._plugins.find(plugin["type"])
        entry = Entry(attachment, config)
        await _in_thread(self._cache.save, entry)
        return entry

    async def add(self, entry: Entry) -> PodNetwork:
        """Make the network that was prepared; it waits for pods on their way out that have the same ports of the host.

        On an error or cancellation, part of it may be there: `detach` takes that down. Errors: those of a plugin.
        """
        attachment, config = entry.attachment, entry.network
        await self._wait_for_ports(attachment)
        result: Result = {}
        async with self._turns.turn():
            for number, plugin in enumerate(config.plugins):
                previous = result if number else None
                result = await self._plugins.call(
                    "ADD", attachment, request(config.version, config.name, plugin, attachment.capabilities, previous)
                )
        await _in_thread(self._cache.save, entry.with_result(result))
        return PodNetwork(tuple(addresses(result, attachment.interface, self._preference)), result)

    async def _wait_for_ports(self, attachment: Attachment) -> None:
        """Until then, the rules of the pod before would take what comes to the port."""
        wanted = _host_ports(attachment)
        if not wanted:
            return
        for id, tried in list(self._leaving.items()):
            entry = await _in_thread(self._cache.load, id)
            if entry is not None and wanted & _host_ports(entry.attachment):
                await tried.wait()

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

    def stands(self, id: str) -> bool:
        """Whether a pod's network has not been taken down."""
        return self._cache.has(id)

    async def detach(self, id: str) -> None:
        """Take a pod's network down; without a network, at once.

        One plugin's failure does not keep the others from taking down what is theirs; the first failure is raised at
        the end. What failed stays recorded: `detach_later` tries until it succeeds.
        """
        lock = self._locks.setdefault(id, asyncio.Lock())
        try:
            async with lock:
                await self._detach(id)
        finally:
            if not lock.locked():
                self._locks.pop(id, None)

    async def _detach(self, id: str) -> None:
        entry = await _in_thread(self._cache.load, id)
        if entry is None:
            return
        attachment = entry.attachment
        if not os.path.exists(attachment.netns):
            # The specification's way to say that the namespace is gone.
            attachment = replace(attachment, netns="")
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
        await _in_thread(self._cache.remove, id)

    def detach_later(self, id: str, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Take a pod's network down in the background, again and again until that succeeds, and await `then` after it.

        The record of the network is what it is not lost by: a new run of the daemon goes on where this one was killed.
        """
        if id not in self._leaving:
            self._leaving[id] = asyncio.Event()
            self._spawn(f"network of pod {id}", self._leave(id, then))

    async def _leave(self, id: str, then: Callable[[], Awaitable[None]] | None) -> None:
        pause = _RETRY_FIRST
        tried = self._leaving[id]
        try:
            while not await self._left(id, then, pause):
                tried.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_LONGEST)
        finally:
            tried.set()
            del self._leaving[id]

    async def _left(self, id: str, then: Callable[[], Awaitable[None]] | None, pause: float) -> bool:
        try:
            async with self._slots:
                await self.detach(id)
            if then is not None:
                await then()
        except MoorageError as error:
            logger.warning("the network of pod %s is not down yet, next try in %g s: %s", id, pause, error)
            return False
        return True


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The cache's disk may hang, and nobody else is to wait for it."""
    return await finish(asyncio.to_thread(work, *args, **kwargs))


def _host_ports(attachment: Attachment) -> set[tuple[int, str]]:
    """The ports of the host that an attachment takes, whatever the address."""
    return {(each["hostPort"], each["protocol"]) for each in attachment.capabilities.get("portMappings", ())}
