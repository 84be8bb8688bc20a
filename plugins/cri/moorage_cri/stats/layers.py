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
# Threads that measure at the same time, and thus the most that hung disks can hold.
_AT_ONCE = 4
# How long a call waits for the first measurement of a container; a hung disk must not hold it up.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One measurement: `at` in nanoseconds since 1970, `taken` on the monotonic clock in seconds."""

    at: int
    taken: float
    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class _Measurement:
    """One that is under way, since `began` on the monotonic clock."""

    task: asyncio.Task[None]
    began: float

    def age(self, now: float) -> float:
        return now - self.began


class WritableLayers:
    """What is known of each container's writable snapshot. Measurements run in the background; a call gets the last one, and
    waits only where there is none yet and it began just now: one that a hung disk holds up holds up no call after that,
    and no other container's."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._layers: dict[str, Layer] = {}
        self._measuring: dict[str, _Measurement] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def get(self, containers: Sequence[Container]) -> Mapping[str, Layer]:
        """The layers of `containers` by id; one that could not be measured yet is missing."""
        self._forget()
        now = time.monotonic()
        for container in containers:
            if container.id not in self._measuring and self._age(container, now) > _FRESH_SECONDS:
                task = self._cri.background.spawn(f"writable layer of {container.id}", self._measure(container))
                self._measuring[container.id] = _Measurement(task, now)
        awaited = [each.id for each in containers if each.id not in self._layers and each.id in self._measuring]
        young = [
            found.task for found in map(self._measuring.__getitem__, awaited) if found.age(now) < _PATIENCE_SECONDS
        ]
        if young:
            await asyncio.wait(young, timeout=_PATIENCE_SECONDS)
        return {each.id: self._layers[each.id] for each in containers if each.id in self._layers}

    def _age(self, container: Container, now: float) -> float:
        layer = self._layers.get(container.id)
        return now - layer.taken if layer is not None else float("inf")

    async def _measure(self, container: Container) -> None:
        try:
            async with self._slots:
                # Not to be waited for to its end when the daemon stops.
                layer = await self._cri.core.run(self._usage, container)
            if layer is not None and container.id in self._cri.containers:
                self._layers[container.id] = layer
        finally:
            del self._measuring[container.id]

    def _usage(self, container: Container) -> Layer | None:
        try:
            usage = self._cri.k8s.snapshotter(container.snapshotter).usage(container.id)
        except MoorageError:
            return None  # It is being removed.
        return Layer(time.time_ns(), time.monotonic(), usage.size, usage.inodes)

    def _forget(self) -> None:
        for id in [id for id in self._layers if id not in self._cri.containers]:
            del self._layers[id]
