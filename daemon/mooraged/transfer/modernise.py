"""Manifests of Docker's schema 1 made into manifests of today, as containerd does.

Such a manifest has no diff IDs and no sizes, so its layers are fetched and read before the new one is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from moorage_api.core import Stores
from moorage_api.errors import DataLoss
from moorage_api.oci import build, image
from moorage_api.types import Descriptor
from mooraged.transfer import schema1, v1
from mooraged.transfer.client import read_body
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.fetcher import store_document
from mooraged.transfer.floors import all_or_none
from mooraged.transfer.hosts import Host
from mooraged.transfer.recompress import detect, uncompressed_digest
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads

_ACCEPT = {"Accept": f"{image.DOCKER_SCHEMA1}, {image.DOCKER_SCHEMA1_UNSIGNED}, */*;q=0.1"}
_EMPTY = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
"""The blob that Docker gave to each step that changed no files."""
_LAYERS = {"": image.OCI_LAYER, "gzip": image.OCI_LAYER_GZIP, "zstd": image.OCI_LAYER_ZSTD}


class Modernised:
    """Makes a manifest of today of one of schema 1, in the namespace and under the lease that `stores` is bound to.

    `fetch` sees that the namespace has a blob.
    """

    def __init__(
        self, threads: Threads, source: Source, stores: Stores, fetch: Callable[[Descriptor], Awaitable[None]]
    ) -> None:
        self._threads = threads
        self._source = source
        self._stores = stores
        self._fetch = fetch

    async def run(self, descriptor: Descriptor) -> tuple[Descriptor, bytes]:
        """The new manifest, whose blobs are all there; it is not stored yet. Errors: those of `Source.ask` and `fetch`;
        `InvalidArgument` and `ResourceExhausted` for a manifest, or layers, that cannot be read."""
        old = schema1.parse(await self._document(descriptor))
        steps = [
            ({**step, "throwaway": True} if digest == _EMPTY else step, digest)
            for step, digest in zip(old.chain, old.blobs, strict=True)
        ]
        wanted = [digest for step, digest in steps if not v1.is_empty(step)]
        tasks = {digest: asyncio.create_task(self._layer(digest)) for digest in dict.fromkeys(wanted)}
        layers = dict(zip(tasks, await all_or_none(list(tasks.values())), strict=True))
        made = [layers[digest] for digest in wanted]
        data = v1.config_of([step for step, _ in steps], [diff_id for _, diff_id in made])
        config = build.describe(data, image.OCI_CONFIG)
        await store_document(self._threads, self._stores.content, config, data, {})
        manifest = build.manifest(config, [layer for layer, _ in made])
        return build.describe(manifest, image.OCI_MANIFEST), manifest

    async def _document(self, descriptor: Descriptor) -> bytes:
        async def at(host: Host) -> bytes:
            async with self._source.request(host, "GET", "manifests", descriptor.digest, _ACCEPT) as response:
                data = await read_body(response, image.MANIFEST_MAX)
            if schema1.digest(data, descriptor.digest.partition(":")[0]) != descriptor.digest:
                raise HostFailure(DataLoss(f"what came is not {descriptor.digest}"))
            return data

        return await self._source.ask(f"fetch {descriptor.digest} of {self._source.reference.name}", at)

    async def _layer(self, digest: str) -> tuple[Descriptor, str]:
        """A layer, fetched, and its diff ID."""

        async def size_at(host: Host) -> int:
            async with self._source.request(host, "HEAD", "blobs", digest, {}) as response:
                length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise HostFailure(DataLoss(f"it does not say how large {digest} is"))
            return int(length)

        size = await self._source.ask(f"fetch {digest} of {self._source.reference.name}", size_at)
        blob = Descriptor(image.OCI_LAYER_GZIP, digest, size)
        await self._fetch(blob)
        return await self._threads.run(self._described, blob)

    def _described(self, blob: Descriptor) -> tuple[Descriptor, str]:
        content = self._stores.content
        media_type = _LAYERS[detect(content, blob)]
        return Descriptor(media_type, blob.digest, blob.size), uncompressed_digest(content, blob)
