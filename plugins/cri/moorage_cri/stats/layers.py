"""How much containers have written into their root file systems: measured beside the calls that tell of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moorage_api.errors import MoorageError
from moorage_cri.context import Cri
from moorage_cri.model import Container

# As often as containerd measures by default, in seconds.
_FRESH_SECONDS = 10.0
# How long a call waits for the first measurement of a container; a hung disk must not hold it up.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One measurement: `at` in nanoseconds since 1970, `taken` on the monotonic clock in seconds."""

    at: int
    taken: float
    size: int
    inodes: int


class WritableLayers:
    """What is known of each container's writable snapshot. One measurement at a time runs in the background; a call
    gets the last one, and waits only where there is none yet."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._layers: dict[str, Layer] = {}
        self._measuring: asyncio.Event | None = None

    async def get(self, containers: Sequence[Container]) -> Mapping[str, Layer]:
        """The layers of `containers` by id; one that could not be measured yet is missing."""
        self._forget()
        now = time.monotonic()
        stale = [each for each in containers if self._age(each, now) > _FRESH_SECONDS]
        if stale and self._measuring is None:
            self._measuring = asyncio.Event()
            self._cri.background.start("writable layers", self._measure(stale, self._measuring))
        if self._measuring is not None and any(container.id not in self._layers for container in containers):
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._measuring.wait()
            except TimeoutError:
                pass  # What is known by now is told.
        return {each.id: self._layers[each.id] for each in containers if each.id in self._layers}

    def _age(self, container: Container, now: float) -> float:
        layer = self._layers.get(container.id)
        return now - layer.taken if layer is not None else float("inf")

    async def _measure(self, containers: Sequence[Container], done: asyncio.Event) -> None:
        try:
            for container in containers:
                layer = await self._cri.run(self._usage, container)
                if layer is not None and container.id in self._cri.containers:
                    self._layers[container.id] = layer
        finally:
            self._measuring = None
            done.set()

    def _usage(self, container: Container) -> Layer | None:
        try:
            usage = self._cri.k8s.snapshotter(container.snapshotter).usage(container.id)
        except MoorageError:
            return None  # It is being removed.
        return Layer(time.time_ns(), time.monotonic(), usage.size, usage.inodes)

    def _forget(self) -> None:
        for id in [id for id in self._layers if id not in self._cri.containers]:
            del self._layers[id]
