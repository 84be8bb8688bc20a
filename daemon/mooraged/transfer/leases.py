"""The lease of a transfer: it keeps what comes in from collection until the image is saved, across a crash of the daemon."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from moorage_api.core import Stores
from moorage_api.errors import DeadlineExceeded, NotFound, Unavailable
from moorage_api.leases import Lease, LeaseManager
from mooraged.transfer.labels import GC_EXPIRE
from mooraged.transfer.stores import Metadata
from mooraged.transfer.threads import Threads

LIFETIME = 24 * 3600
"""Seconds that an interrupted pull can be resumed in."""
REFERENCE = "moorage.io/transfer.reference"


class TransferLeases:
    """Leases by what they are for, so that an interrupted transfer's is found again and its bytes are used."""

    def __init__(self, metadata: Metadata, threads: Threads) -> None:
        self._metadata = metadata
        self._threads = threads
        self._active: set[tuple[str, str]] = set()

    @asynccontextmanager
    async def hold(
        self, namespace: str, reference: str, *, resumable: bool = True
    ) -> AsyncIterator[tuple[Stores, str]]:
        """The namespace, bound to a lease for the transfer of `reference`, and the lease's id.

        It ends with the transfer, but for a `resumable` one that was cancelled or failed for want of a registry: then it
        stays with what it holds, until the same is asked again or `LIFETIME` is over.
        """
        lease = await self._threads.obtain(
            lambda: self._begin(namespace, reference), lambda id: self._end(namespace, id, stays=resumable)
        )
        stays = False
        try:
            yield self._metadata.bind(namespace, lease), lease
        except (Unavailable, DeadlineExceeded, asyncio.CancelledError):
            stays = resumable
            raise
        finally:
            await self._threads.run(self._end, namespace, lease, stays=stays)

    def _begin(self, namespace: str, reference: str) -> str:
        """Make the lease and move to it what earlier ones of the same reference hold, but for their half-made
        snapshots. Leases of transfers that run now are left alone."""
        leases = self._metadata.bind(namespace).leases
        expires = datetime.fromtimestamp(time.time() + LIFETIME, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        id = f"transfer-{time.time_ns()}-{secrets.token_hex(4)}"
        # Known as active before it can be seen: otherwise a transfer that begins now could take it for abandoned.
        self._active.add((namespace, id))
        try:
            abandoned = [old for old in _leases_for(leases, reference) if (namespace, old.id) not in self._active]
            lease = leases.create(id, {REFERENCE: reference, GC_EXPIRE: expires})
            for old in abandoned:
                _move(leases, old, lease)
        except BaseException:
            self._active.discard((namespace, id))
            raise
        return id

    def _end(self, namespace: str, lease: str, *, stays: bool) -> None:
        leases = self._metadata.bind(namespace).leases
        try:
            if not stays or not leases.resources(lease):
                leases.delete(lease)
        except NotFound:
            return  # someone removed it by hand
        finally:
            self._active.discard((namespace, lease))


def _leases_for(leases: LeaseManager, reference: str) -> list[Lease]:
    return list(leases.list([f'labels."{REFERENCE}"=={json.dumps(reference)}']))


def _move(leases: LeaseManager, old: Lease, new: Lease) -> None:
    try:
        for resource in leases.resources(old.id):
            if not resource.id.startswith("extract-"):
                leases.add_resource(new.id, resource)
        leases.delete(old.id)
    except NotFound:
        return  # it expired meanwhile, or someone removed it
