"""Unpacking: the layers of an image become snapshots, each on the one below, named by their chain IDs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_api.differ import Differ
from moorage_api.errors import AlreadyExists, Internal, InvalidArgument, MoorageError, NotFound
from moorage_api.leases import Resource
from moorage_api.oci import image
from moorage_api.snapshots import Snapshotter, rebases
from moorage_api.types import Descriptor, Labels
from mooraged.transfer.extraction import Active, Extraction, Layer, Outcome, Supply, Target
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.floors import Floor, all_or_none
from mooraged.transfer.labels import GC_SNAPSHOT, SNAPSHOT_REF, UNCOMPRESSED
from mooraged.transfer.threads import KeyedLocks, Threads

_PREPARE_TRIES = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The chain ID of the top snapshot; `remote` holds the digests of layers that the snapshotter had itself, whose
    blobs nobody needs here."""

    chain_id: str
    remote: frozenset[str]


def layers_of(
    manifest: Sequence[Descriptor], config: image.ImageConfig, labels: Sequence[Labels] | None = None
) -> list[Layer]:
    """Pair the layers of a manifest with the diff IDs of its configuration, and with the labels for the snapshotter of each.
    `InvalidArgument` where they do not match."""
    diff_ids = config.rootfs.diff_ids
    if len(manifest) != len(diff_ids):
        raise InvalidArgument(f"the manifest has {len(manifest)} layers, the configuration {len(diff_ids)} diff IDs")
    chain = image.chain_ids(diff_ids)
    return [
        Layer(*layer)
        for layer in zip(manifest, diff_ids, chain, ["", *chain], labels or [{} for _ in manifest], strict=False)
    ]


class Unpacker:
    """Unpacks for the whole daemon: one chain is unpacked once at a time, and at most `workers` layers are."""

    def __init__(self, threads: Threads, differ: Differ, workers: int) -> None:
        self._threads = threads
        self._extraction = Extraction(threads, differ, asyncio.Semaphore(workers))
        self._locks: KeyedLocks[tuple[str, str, str]] = KeyedLocks()

    async def unpack(self, target: Target, config: Descriptor, layers: Sequence[Layer], supply: Supply) -> Unpacked:
        """Make the snapshots that are not there yet, side by side where the snapshotter can put them on one another.

        The configuration is labelled so that it keeps the snapshots from collection. On failure the layers from the one
        that failed on leave no snapshot; those below it stay, and are found again. `DataLoss` for a layer that does not
        decompress to what the configuration says; otherwise the errors of the snapshotter, the differ and `supply`.
        """
        floors: list[Floor] = []
        for layer in layers:
            floor = Floor(layer, floors[-1] if floors else None)
            floor.task = asyncio.create_task(self._make(target, floor, supply), name=f"unpack {layer.chain_id}")
            floors.append(floor)
        made = await all_or_none([floor.running for floor in floors])
        remote = [layer.descriptor.digest for layer, done in zip(layers, made, strict=True) if not done]
        top = layers[-1].chain_id if layers else ""
        if top:
            label = {GC_SNAPSHOT + target.snapshotter: top}
            await self._threads.run(set_labels, target.stores.content, config.digest, label)
        return Unpacked(top, frozenset(remote))

    async def _make(self, target: Target, floor: Floor, supply: Supply) -> bool:
        """Make one snapshot if it is not there; False where the snapshotter made it itself."""
        layer = floor.layer
        apart = not await floor.stands() and self._extraction.can_apart and _rebases(target)
        if not apart:
            await floor.below_made()
        async with self._locks.hold((target.stores.namespace, target.snapshotter, layer.chain_id)):
            if await self._threads.run(_claim, target, layer.chain_id):
                floor.there.set_result(True)
                return True
            outcome = None
            while outcome is not Outcome.DONE:
                apart = apart and outcome in (None, Outcome.LOST)
                snapshot = await self._prepare(target, layer, apart)
                if not floor.there.done():
                    floor.there.set_result(snapshot is None)
                if snapshot is None:
                    return False
                outcome = await self._fill(target, floor, snapshot, supply, early=outcome is None)
        return True

    async def _fill(self, target: Target, floor: Floor, snapshot: Active, supply: Supply, *, early: bool) -> Outcome:
        """Extract into the snapshot and commit it, or remove it where it has to be done again."""
        try:
            outcome = await self._extraction.run(target, floor.layer, snapshot, supply, early=early)
            await floor.below_made()
            if outcome is Outcome.DONE:
                await self._threads.run(_commit, target, floor.layer, snapshot)
                return outcome
        except BaseException:
            await self._threads.run(_remove, target, snapshot.key)
            raise
        await self._threads.run(_remove, target, snapshot.key)
        return outcome

    async def _prepare(self, target: Target, layer: Layer, apart: bool) -> Active | None:
        return await self._threads.obtain(
            lambda: _prepare(target, layer, apart), lambda made: _remove(target, made.key) if made else None
        )


def _rebases(target: Target) -> bool:
    return rebases(target.stores.snapshotter(target.snapshotter))


def _claim(target: Target, chain_id: str) -> bool:
    """Whether the snapshot is there; if so, the lease holds it from now on."""
    snapshotter = target.stores.snapshotter(target.snapshotter)
    if not _exists(snapshotter, chain_id):
        return False
    target.stores.leases.add_resource(target.lease, Resource(chain_id, f"snapshots/{target.snapshotter}"))
    return _exists(snapshotter, chain_id)


def _prepare(target: Target, layer: Layer, apart: bool) -> Active | None:
    """An active snapshot for the layer; None where the snapshotter had the layer itself and committed it."""
    snapshotter = target.stores.snapshotter(target.snapshotter)
    inherited = {
        key: value for key, value in layer.descriptor.annotations.items() if key.startswith("containerd.io/snapshot/")
    }
    parent = "" if apart else layer.parent
    for _ in range(_PREPARE_TRIES):
        key = f"extract-{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)} {layer.chain_id}"
        try:
            mounts = snapshotter.prepare(key, parent, {**inherited, **layer.labels, SNAPSHOT_REF: layer.chain_id})
            return Active(key, mounts, apart)
        except AlreadyExists:
            if _claim(target, layer.chain_id):
                return None
    raise Internal(f"no key is free for a snapshot of {layer.chain_id}")


def _commit(target: Target, layer: Layer, snapshot: Active) -> None:
    """Commit what was extracted and verified. The snapshotter syncs the files, once, so the differ need not."""
    snapshotter = target.stores.snapshotter(target.snapshotter)
    onto = {"parent": layer.parent} if snapshot.apart else {}
    try:
        snapshotter.commit(layer.chain_id, snapshot.key, {SNAPSHOT_REF: layer.chain_id}, **onto)
    except AlreadyExists:
        _remove(target, snapshot.key)
    set_labels(target.stores.content, layer.descriptor.digest, {UNCOMPRESSED: layer.diff_id})


def _exists(snapshotter: Snapshotter, name: str) -> bool:
    try:
        snapshotter.stat(name)
    except NotFound:
        return False
    return True


def _remove(target: Target, key: str) -> None:
    """Remove a half-made snapshot. An error here must not hide the one that led here; collection removes it later."""
    try:
        target.stores.snapshotter(target.snapshotter).remove(key)
    except NotFound:
        return
    except MoorageError:
        _log.exception("the snapshot %r of a failed extraction stays for now", key)
