"""Unpacking: the layers of an image become snapshots, each on the one below, named by their chain IDs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from moorage_api.differ import Differ
from moorage_api.errors import AlreadyExists, DataLoss, Internal, InvalidArgument, MoorageError, NotFound
from moorage_api.leases import Resource
from moorage_api.mounts import Mount
from moorage_api.oci import image
from moorage_api.snapshots import Snapshotter
from moorage_api.types import Descriptor
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.labels import GC_SNAPSHOT, SNAPSHOT_REF, UNCOMPRESSED
from mooraged.transfer.stores import Stores
from mooraged.transfer.threads import KeyedLocks, Threads

_PREPARE_TRIES = 3
_log = logging.getLogger(__name__)


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
class Unpacked:
    """The chain ID of the top snapshot; `remote` holds the digests of layers that the snapshotter had itself, whose
    blobs nobody needs here."""

    chain_id: str
    remote: frozenset[str]


Fetched = Callable[[Descriptor], Awaitable[None]]
"""Returns when the layer's blob is in the namespace's content; called only for layers that must be applied."""
Watch = Callable[[Descriptor, str], None]
"""Told of `extracting` and `extracted`."""


def layers_of(manifest: Sequence[Descriptor], config: image.ImageConfig) -> list[Layer]:
    """Pair the layers of a manifest with the diff IDs of its configuration. `InvalidArgument` where they do not match."""
    diff_ids = config.rootfs.diff_ids
    if len(manifest) != len(diff_ids):
        raise InvalidArgument(f"the manifest has {len(manifest)} layers, the configuration {len(diff_ids)} diff IDs")
    chain = image.chain_ids(diff_ids)
    return [
        Layer(descriptor, diff_id, chain_id, parent)
        for descriptor, diff_id, chain_id, parent in zip(manifest, diff_ids, chain, ["", *chain], strict=False)
    ]


class Unpacker:
    """Unpacks for the whole daemon: one chain is unpacked once at a time, and at most `workers` layers are."""

    def __init__(self, threads: Threads, differ: Differ, workers: int) -> None:
        self._threads = threads
        self._differ = differ
        self._slots = asyncio.Semaphore(workers)
        self._locks: KeyedLocks[tuple[str, str, str]] = KeyedLocks()

    async def unpack(
        self, target: Target, config: Descriptor, layers: Sequence[Layer], fetched: Fetched, watch: Watch
    ) -> Unpacked:
        """Make the snapshots that are not there yet, from the bottom up.

        The configuration is labelled so that it keeps the snapshots from collection. On failure the layer that failed
        leaves no snapshot; those below it stay, and are found again. `DataLoss` for a layer that does not decompress to
        what the configuration says; otherwise the errors of the snapshotter, the differ and `fetched`.
        """
        remote = set()
        for layer in layers:
            async with self._locks.hold((target.stores.namespace, target.snapshotter, layer.chain_id)):
                if not await self._make(target, layer, fetched, watch):
                    remote.add(layer.descriptor.digest)
        top = layers[-1].chain_id if layers else ""
        if top:
            label = {GC_SNAPSHOT + target.snapshotter: top}
            await self._threads.run(set_labels, target.stores.content, config.digest, label)
        return Unpacked(top, frozenset(remote))

    async def _make(self, target: Target, layer: Layer, fetched: Fetched, watch: Watch) -> bool:
        """Make one snapshot if it is not there; False where the snapshotter made it itself."""
        if await self._threads.run(_claim, target, layer.chain_id):
            return True
        snapshotter = target.stores.snapshotter(target.snapshotter)
        prepared = await self._threads.obtain(
            lambda: _prepare(target, layer), lambda made: _remove(snapshotter, made[0]) if made else None
        )
        if prepared is None:
            return False
        key, mounts = prepared
        try:
            await fetched(layer.descriptor)
            async with self._slots:
                watch(layer.descriptor, "extracting")
                await self._threads.run(_extract, self._differ, target, layer, key, mounts)
                watch(layer.descriptor, "extracted")
        except BaseException:
            await self._threads.run(_remove, snapshotter, key)
            raise
        return True


def _claim(target: Target, chain_id: str) -> bool:
    """Whether the snapshot is there; if so, the lease holds it from now on."""
    snapshotter = target.stores.snapshotter(target.snapshotter)
    if not _exists(snapshotter, chain_id):
        return False
    target.stores.leases.add_resource(target.lease, Resource(chain_id, f"snapshots/{target.snapshotter}"))
    return _exists(snapshotter, chain_id)


def _prepare(target: Target, layer: Layer) -> tuple[str, list[Mount]] | None:
    """An active snapshot for the layer; None where the snapshotter had the layer itself and committed it."""
    snapshotter = target.stores.snapshotter(target.snapshotter)
    inherited = {
        key: value for key, value in layer.descriptor.annotations.items() if key.startswith("containerd.io/snapshot/")
    }
    for _ in range(_PREPARE_TRIES):
        key = f"extract-{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)} {layer.chain_id}"
        try:
            return key, snapshotter.prepare(key, layer.parent, {**inherited, SNAPSHOT_REF: layer.chain_id})
        except AlreadyExists:
            if _claim(target, layer.chain_id):
                return None
    raise Internal(f"no key is free for a snapshot of {layer.chain_id}")


def _extract(differ: Differ, target: Target, layer: Layer, key: str, mounts: Sequence[Mount]) -> None:
    """Apply, verify and commit. The snapshotter syncs the files at the commit, once, so the differ need not."""
    content = target.stores.content
    applied = differ.apply(content, layer.descriptor, mounts)
    if applied.digest != layer.diff_id:
        raise DataLoss(
            f"layer {layer.descriptor.digest} decompresses to {applied.digest}, "
            f"its image's configuration says {layer.diff_id}"
        )
    snapshotter = target.stores.snapshotter(target.snapshotter)
    try:
        snapshotter.commit(layer.chain_id, key, {SNAPSHOT_REF: layer.chain_id})
    except AlreadyExists:
        _remove(snapshotter, key)
    set_labels(content, layer.descriptor.digest, {UNCOMPRESSED: layer.diff_id})


def _exists(snapshotter: Snapshotter, name: str) -> bool:
    try:
        snapshotter.stat(name)
    except NotFound:
        return False
    return True


def _remove(snapshotter: Snapshotter, key: str) -> None:
    """Remove a half-made snapshot. An error here must not hide the one that led here; collection removes it later."""
    try:
        snapshotter.remove(key)
    except NotFound:
        return
    except MoorageError:
        _log.exception("the snapshot %r of a failed extraction stays for now", key)
