"""One layer into one snapshot: while its blob arrives where that is soon, or when it is there."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from moorage_api.differ import Differ, Extracted, Extracts
from moorage_api.errors import Aborted, Cancelled, DataLoss, MoorageError
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor
from mooraged.transfer.arrival import Arrival
from mooraged.transfer.stores import Stores
from mooraged.transfer.threads import Threads

_TELL_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer to be unpacked: its blob, what the blob must decompress to, and the snapshot that it becomes."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    parent: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where to unpack to. `lease` is the one that `stores` is bound to."""

    stores: Stores
    lease: str
    snapshotter: str


@dataclass(frozen=True, slots=True)
class Active:
    """An active snapshot to extract into; `apart` where it gets its parent by its commit."""

    key: str
    mounts: list[Mount]
    apart: bool


class Supply(Protocol):
    """Where the layers' blobs come from."""

    async def fetched(self, layer: Descriptor, /) -> None:
        """Returns when the blob is in the namespace's content; called only for layers that must be extracted."""

    def arrival(self, layer: Descriptor, /) -> Arrival | None:
        """How far a blob has come that is being fetched; None where it is there, or nobody can follow it."""

    def state(self, layer: Descriptor, event: str, /) -> None:
        """Told of `extracting`, again each second that it goes on, and `extracted`."""


class Extraction:
    """Extracts layers, as many at once as `slots` has."""

    def __init__(self, threads: Threads, differ: Differ, slots: asyncio.Semaphore) -> None:
        self._threads = threads
        self._differ = differ
        self._slots = slots

    async def run(self, target: Target, layer: Layer, snapshot: Active, supply: Supply) -> bool:
        """Fill the snapshot with the layer, whose blob is verified and there at the end. Returns whether the layer has left
        out folders that it has files in, for one that is extracted apart.

        What an attempt has extracted from bytes that did not stay is extracted over: the entries are the same in the end,
        since every entry replaces what is in its place, so that this is done only where the snapshot is still empty.
        """
        fetching = asyncio.ensure_future(supply.fetched(layer.descriptor))
        try:
            extracted = await self._early(target, layer, snapshot, supply, fetching)
            await fetching
        finally:
            if not fetching.done():
                fetching.cancel()
                await asyncio.wait([fetching])
        if extracted is None:
            extracted = await self._attempt(target, layer, snapshot, supply, None)
        if extracted.layer.digest != layer.diff_id:
            raise DataLoss(
                f"layer {layer.descriptor.digest} decompresses to {extracted.layer.digest}, "
                f"its image's configuration says {layer.diff_id}"
            )
        supply.state(layer.descriptor, "extracted")
        return snapshot.apart and extracted.incomplete
