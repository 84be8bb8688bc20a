"""One layer into one snapshot: while its blob arrives where that is soon, or when it is there."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from moorage_api.core import Stores
from moorage_api.differ import Differ, Extracted, Extracts
from moorage_api.errors import Aborted, Cancelled, DataLoss, FailedPrecondition, MoorageError
from moorage_api.mounts import Mount
from moorage_api.types import Descriptor, Labels
from mooraged.transfer.arrival import Arrival
from mooraged.transfer.threads import Threads

_TELL_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer to be unpacked: its blob, what the blob must decompress to, and the snapshot that it becomes. `labels` are
    for its snapshotter, which may have the layer from elsewhere."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str
    parent: str
    labels: Labels = field(default_factory=dict)


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


class Outcome(Enum):
    """How an extraction ended that did not fail."""

    DONE = "the snapshot holds the layer"
    LOST = "the bytes did not stay, or did not go on coming: to be done again when the blob is there"
    INCOMPLETE = "the layer leaves out folders that it has files in: to be done again on the layers below"
    REFUSED = "the differ takes whole layers, on those below: to be done again when both are there"


class Extraction:
    """Extracts layers, as many at once as `slots` has."""

    def __init__(self, threads: Threads, differ: Differ, slots: asyncio.Semaphore) -> None:
        self._threads = threads
        self._differ = differ
        self._slots = slots

    @property
    def can_apart(self) -> bool:
        """Whether the differ extracts into snapshots that get their parents later."""
        return isinstance(self._differ, Extracts)

    async def run(self, target: Target, layer: Layer, snapshot: Active, supply: Supply, *, early: bool) -> Outcome:
        """Fill the empty snapshot with the layer, whose blob is verified and there when this returns.

        With `early` it may begin before the blob is there. `DataLoss` for a layer that does not decompress to what the
        configuration says; otherwise the errors of the differ, and of the fetch, which has the first word: bytes that are
        not the blob's may well be no archive either. Whoever is cancelled waits for the worker to have stopped.
        """
        fetching = asyncio.ensure_future(supply.fetched(layer.descriptor))
        try:
            arrival = supply.arrival(layer.descriptor) if early and self.can_apart else None
            if arrival is None or not await arrival.soon(fetching):
                arrival = None
                await fetching
            work = _Work(self._differ, target, layer, snapshot, arrival, _Teller(supply, layer))
            async with self._slots:
                await self._extract(work, fetching)
            await fetching
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        supply.state(layer.descriptor, "extracted")
        return work.outcome()

    async def _extract(self, work: _Work, fetching: asyncio.Future[None]) -> None:
        """Do the work in a thread, and stop it when the fetch fails or the caller is cancelled."""
        extracting = asyncio.ensure_future(self._threads.run(work.run))
        try:
            await asyncio.wait([extracting, fetching], return_when=asyncio.FIRST_COMPLETED)
            if fetching.done():
                fetching.result()
            await asyncio.wait([extracting])
        finally:
            work.stop.set()
            # As `Threads.run`: what is being written to must not be removed.
            while not extracting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([extracting])
            failed = extracting.exception()  # asked for, so that it is not reported as never retrieved
        if failed is not None:
            await fetching
            if not work.is_torn():
                raise failed


class _Teller:
    """Tells of an extraction, from its thread to the event loop, once a second."""

    def __init__(self, supply: Supply, layer: Layer) -> None:
        self._supply = supply
        self._layer = layer.descriptor
        self._loop = asyncio.get_running_loop()
        self._told_at = float("-inf")

    def tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_INTERVAL:
            self._told_at = now
            self._loop.call_soon_threadsafe(self._supply.state, self._layer, "extracting")


class _Work:
    """What a thread does for one extraction."""

    def __init__(
        self, differ: Differ, target: Target, layer: Layer, snapshot: Active, arrival: Arrival | None, teller: _Teller
    ) -> None:
        self.stop = threading.Event()
        self._differ = differ
        self._target = target
        self._layer = layer
        self._snapshot = snapshot
        self._arrival = arrival
        self._teller = teller
        self._extracted: Extracted | None = None
        self._refused = False

    def run(self) -> None:
        """Extract. Nothing is extracted where the bytes are lost meanwhile, or the differ wants them all first."""
        self._teller.tell()
        try:
            self._extracted = self._extract()
        except FailedPrecondition:
            if self._arrival is None and not self._snapshot.apart:
                raise
            self._refused = True
        except MoorageError:
            if not self._is_lost():
                raise

    def outcome(self) -> Outcome:
        """How it went, once the blob is verified. `DataLoss`."""
        if self._refused:
            return Outcome.REFUSED
        if self._extracted is None or self.is_torn():
            return Outcome.LOST
        found, layer = self._extracted.layer.digest, self._layer
        if found != layer.diff_id:
            raise DataLoss(
                f"layer {layer.descriptor.digest} decompresses to {found}, "
                f"its image's configuration says {layer.diff_id}"
            )
        return Outcome.INCOMPLETE if self._snapshot.apart and self._extracted.incomplete else Outcome.DONE

    def _extract(self) -> Extracted:
        content, descriptor, mounts = self._target.stores.content, self._layer.descriptor, self._snapshot.mounts
        if not isinstance(self._differ, Extracts):
            return Extracted(self._differ.apply(content, descriptor, mounts))
        return self._differ.extract(
            content,
            descriptor,
            mounts,
            arriving=self._arrival,
            apart=self._snapshot.apart,
            progress=self._progress,
        )

    def _progress(self, size: int) -> None:
        if self.stop.is_set():
            raise Cancelled("the extraction was stopped")
        if self._is_lost():
            raise Aborted("the bytes of the layer were lost, or stay away")
        self._teller.tell()

    def _is_lost(self) -> bool:
        return self._arrival is not None and (self._arrival.torn or self._arrival.stalled())

    def is_torn(self) -> bool:
        """Whether it has read bytes that were not the blob's in the end: then nothing that it says counts."""
        return self._arrival is not None and self._arrival.torn
