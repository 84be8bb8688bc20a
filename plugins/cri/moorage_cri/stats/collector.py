"""Readings of containers and pods, taken together for all that a call asks of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moorage_api import cgroups
from moorage_api.cgroups.location import at as group_at
from moorage_api.cgroups.location import slice_path
from moorage_cri.context import Cri
from moorage_cri.model import Container, Sandbox
from moorage_cri.stats import usage
from moorage_cri.stats.layers import Layer, WritableLayers
from moorage_cri.stats.usage import Usage

Reading = tuple[Usage, tuple[int, ...]]

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one container now. `usage` is None for one that does not run, `nano_cores` (billionths of a
    core) until there are two readings a second apart, `pids` are its processes."""

    container: Container
    usage: Usage | None
    nano_cores: int | None = None
    layer: Layer | None = None
    pids: tuple[int, ...] = ()


class Rates:
    """Turns readings of counters into rates. Readings less than a second apart give the rate from before."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int, int | None]] = {}

    def add(self, key: str, at: int, counter: int) -> int | None:
        """Take a reading; returns the increase a second, None for the first one and after the counter was reset."""
        before = self._last.get(key)
        if before is None or counter < before[1]:
            self._last[key] = (at, counter, None)
            return None
        elapsed = at - before[0]
        if elapsed < _SECOND:
            return before[2]
        rate = (counter - before[1]) * _SECOND // elapsed
        self._last[key] = (at, counter, rate)
        return rate

    def keep(self, known: set[str]) -> None:
        """Forget all others."""
        for key in [key for key in self._last if key not in known]:
            del self._last[key]


class Collector:
    """Reads what the kernel counts. Shared by the calls, so that one's readings serve the rates of the next."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri
        self._groups: dict[str, tuple[int, cgroups.Group]] = {}
        self._rates = Rates()
        self._layers = WritableLayers(cri)

    async def containers(self, containers: Sequence[Container]) -> list[Sample]:
        """A sample of each. A container that ends meanwhile has none of its processes' usage."""
        self._forget()
        readings = await self._cri.run(self._read, [each for each in containers if each.running])
        layers = await self._layers.get(containers)
        return [self._sample(each, readings.get(each.id), layers.get(each.id)) for each in containers]

    async def pod(self, sandbox: Sandbox) -> Usage | None:
        """What the pod's own control group has used; None where it shares one with others."""
        parent = sandbox.config.linux.cgroup_parent
        return await self._cri.run(_read_parent, parent) if parent else None

    def pod_rate(self, sandbox: Sandbox, reading: Usage) -> int | None:
        """The pod's CPU usage in billionths of a core."""
        return self._rates.add(sandbox.id, reading.at, reading.cpu.total)

    def _group(self, container: Container) -> cgroups.Group:
        """The control group of a running container; empty where it has just ended. Looked up once a run."""
        pid = container.run.pid
        known = self._groups.get(container.id)
        if known is None or known[0] != pid:
            known = self._groups[container.id] = (pid, cgroups.locate(pid) if pid else cgroups.Group())
        return known[1]

    def _read(self, containers: Sequence[Container]) -> Mapping[str, Reading]:
        found = {}
        for container in containers:
            group = self._group(container)
            if group.folders:
                found[container.id] = usage.read(group), tuple(group.pids())
        return found

    def _sample(self, container: Container, reading: Reading | None, layer: Layer | None) -> Sample:
        # What was read of a container that has ended meanwhile is of files that were on their way out.
        if reading is None or not container.running:
            return Sample(container, None, layer=layer)
        used, pids = reading
        return Sample(container, used, self._rates.add(container.id, used.at, used.cpu.total), layer, pids)

    def _forget(self) -> None:
        containers = {container.id for container in self._cri.containers}
        for id in [id for id in self._groups if id not in containers]:
            del self._groups[id]
        self._rates.keep(containers | {sandbox.id for sandbox in self._cri.sandboxes})


def _read_parent(parent: str) -> Usage | None:
    path = slice_path(os.path.basename(parent)) if parent.endswith(".slice") else os.path.join("/", parent)
    group = group_at(path)
    return usage.read(group) if group.folders else None
