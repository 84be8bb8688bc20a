"""A pull: resolve, fetch the documents, fetch the layers while the first are unpacked already, save the image last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from moorage_api.core import Stores
from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted
from moorage_api.images import Image
from moorage_api.oci import image
from moorage_api.oci.platforms import PlatformMatcher, default_platform, format_platform, only
from moorage_api.transfer import PullOptions
from moorage_api.types import Descriptor, Labels
from mooraged.transfer.arrival import Arrival
from mooraged.transfer.documents import Found, candidates, read_blob
from mooraged.transfer.extraction import Layer, Target
from mooraged.transfer.fetcher import check_size, fetch_blob, fetch_document, set_labels, store_document
from mooraged.transfer.fetches import Fetches
from mooraged.transfer.labels import children_labels, remote_labels, source_label
from mooraged.transfer.modernise import Modernised
from mooraged.transfer.progress import Reporter
from mooraged.transfer.resolver import Resolved
from mooraged.transfer.source import Source
from mooraged.transfer.stores import claim, save_image
from mooraged.transfer.threads import KeyedLocks, Threads
from mooraged.transfer.unpack import Unpacker, layers_of

DOCUMENTS_MAX = 256
"""Indexes and manifests that one pull reads."""


@dataclass(frozen=True)
class Workshop:
    """What all pulls of the daemon share. `downloads`: how many layers of one pull are fetched at once; `parts`: how many
    parts of one large layer."""

    threads: Threads
    unpacker: Unpacker
    downloads: int
    parts: int
    blobs: KeyedLocks[tuple[str, str]]


class _Fetched:
    """The layers of a pull, for the unpacker."""

    def __init__(self, fetches: Fetches, arrivals: dict[str, Arrival], reporter: Reporter) -> None:
        self._fetches = fetches
        self._arrivals = arrivals
        self._reporter = reporter

    async def fetched(self, layer: Descriptor, /) -> None:
        await self._fetches.need(layer)

    def arrival(self, layer: Descriptor, /) -> Arrival | None:
        return self._arrivals.get(layer.digest)

    def state(self, layer: Descriptor, event: str, /) -> None:
        self._reporter.blob(layer).state(event)


class Pull:
    """One pull into one namespace, under a lease that `stores` is bound to."""

    def __init__(
        self,
        workshop: Workshop,
        source: Source,
        stores: Stores,
        lease: str,
        options: PullOptions,
        reporter: Reporter,
    ) -> None:
        self._workshop = workshop
        self._threads = workshop.threads
        self._source = source
        self._stores = stores
        self._lease = lease
        self._options = options
        self._reporter = reporter
        self._slots = asyncio.Semaphore(workshop.downloads)
        self._documents = 0
        self._arrivals: dict[str, Arrival] = {}

    async def run(self, resolved: Resolved, snapshotter: str) -> Image:
        """Fetch and save what was resolved; unpacked to `snapshotter` if the options ask for it."""
        if image.is_schema1(resolved.descriptor.media_type):
            modernised = Modernised(self._threads, self._source, self._stores, self._blob)
            resolved = Resolved(*await modernised.run(resolved.descriptor))
        for platform in self._options.platforms or (default_platform(),):
            found = await self._find(resolved, only(platform), 0)
            if found is None:
                raise NotFound(f"{self._source.reference} has no image for {format_platform(platform)}")
            await self._complete(found, snapshotter)
        saved = await self._threads.run(self._save, resolved.descriptor)
        self._reporter.image("saved", resolved.descriptor)
        return saved

    # Documents

    async def _find(self, wanted: Resolved, matcher: PlatformMatcher, depth: int) -> Found | None:
        """The manifest that fits best at or below an index or a manifest; one without an index fits always."""
        descriptor = wanted.descriptor
        if image.is_manifest(descriptor.media_type):
            data = await self._document(wanted)
            return Found(descriptor, image.parse_manifest(data, descriptor.media_type))
        if depth == image.DEPTH_MAX:
            raise ResourceExhausted(f"{self._source.reference} has more than {depth} indexes within each other")
        index = image.parse_index(await self._document(wanted), descriptor.media_type)
        for child in candidates(index.children(), matcher):
            found = await self._find(Resolved(child), matcher, depth + 1)
            if found is not None and (child.platform is not None or await self._runs_on(found, matcher)):
                return found
        return None

    async def _runs_on(self, found: Found, matcher: PlatformMatcher) -> bool:
        """Whether the configuration names a platform that matches, for an entry whose index does not say."""
        config = found.manifest.config.descriptor()
        return image.is_config(config.media_type) and matcher.matches((await self._config(config)).platform())

    async def _document(self, wanted: Resolved) -> bytes:
        """The bytes of an index or a manifest, which is a labelled blob of the namespace then."""
        self._documents += 1
        if self._documents > DOCUMENTS_MAX:
            raise ResourceExhausted(f"{self._source.reference} has more than {DOCUMENTS_MAX} indexes and manifests")
        descriptor = wanted.descriptor
        report = self._reporter.blob(descriptor)
        async with self._workshop.blobs.hold((self._stores.namespace, descriptor.digest)):
            there = await self._claim(descriptor)
            data = wanted.data or (
                await self._threads.run(read_blob, self._stores.content, descriptor, image.MANIFEST_MAX)
                if there
                else await fetch_document(self._source, descriptor)
            )
            labels = children_labels(image.children(descriptor.media_type, data))
            if there:
                await self._threads.run(set_labels, self._stores.content, descriptor.digest, labels)
            else:
                labels |= self._origin({})
                await store_document(self._threads, self._stores.content, descriptor, data, labels)
        report.state("already exists" if there else "complete")
        return data

    async def _config(self, descriptor: Descriptor) -> image.ImageConfig:
        check_size(descriptor, image.CONFIG_MAX, "configuration")
        await self._blob(descriptor)
        data = await self._threads.run(read_blob, self._stores.content, descriptor, image.CONFIG_MAX)
        return image.parse_config(data)

    # Blobs

    async def _complete(self, found: Found, snapshotter: str) -> None:
        """Fetch what the manifest refers to, and unpack it if asked."""
        config, *layers = found.manifest.children()
        if not image.is_config(config.media_type) or not self._options.unpack:
            async with Fetches(self._blob, [config, *layers]) as fetches:
                await fetches.finish()
            return
        document = await self._config(config)
        if document.os not in ("", default_platform().os):
            raise InvalidArgument(f"{self._source.reference} is for {format_platform(document.platform())}")
        target = Target(self._stores, self._lease, snapshotter)
        labels = remote_labels(self._source.reference.canonical, found.descriptor.digest, layers)
        with self._arriving(layers):
            await self._unpack(layers_of(layers, document, labels), target, config)

    async def _unpack(self, layers: Sequence[Layer], target: Target, config: Descriptor) -> None:
        async with Fetches(self._blob, [layer.descriptor for layer in layers]) as fetches:
            supply = _Fetched(fetches, self._arrivals, self._reporter)
            unpacked = await self._workshop.unpacker.unpack(target, config, layers, supply)
            await fetches.finish(unpacked.remote)

    @contextmanager
    def _arriving(self, layers: Sequence[Descriptor]) -> Iterator[None]:
        """While it lasts, the layers may be followed as they arrive."""
        self._arrivals = {layer.digest: Arrival(layer.size) for layer in layers}
        try:
            yield
        finally:
            arrivals, self._arrivals = self._arrivals, {}
            for arrival in arrivals.values():
                arrival.close()

    async def _blob(self, descriptor: Descriptor) -> None:
        """See that the namespace has the blob. Pulls that want the same one wait for each other here, and the next
        finds it, or goes on with what came if the first one failed."""
        report = self._reporter.blob(descriptor)
        key = (self._stores.namespace, descriptor.digest)
        if self._workshop.blobs.locked(key):
            report.state("waiting")
        async with self._workshop.blobs.hold(key):
            if await self._claim(descriptor):
                report.state("already exists")
                return
            async with self._slots:
                arrival = self._arrivals.get(descriptor.digest)

                def advance(there: int) -> None:
                    report.advance(there)
                    if arrival is not None:
                        arrival.advance(there)

                content, labels = self._stores.content, self._origin({})
                await fetch_blob(
                    self._source, self._threads, content, descriptor, labels, advance, arrival, self._workshop.parts
                )
        report.state("complete")

    async def _claim(self, descriptor: Descriptor) -> bool:
        return await self._threads.run(self._claim_now, descriptor)

    def _claim_now(self, descriptor: Descriptor) -> bool:
        """Whether the namespace has the blob; if so, the lease holds it from now on, and its label names this source."""
        info = claim(self._stores, self._lease, descriptor.digest)
        if info is None:
            return False
        if info.size != descriptor.size:
            raise InvalidArgument(f"{descriptor.digest} has {info.size} bytes, its descriptor says {descriptor.size}")
        set_labels(self._stores.content, descriptor.digest, self._origin(info.labels))
        return True

    def _origin(self, known: Labels) -> dict[str, str]:
        return source_label(self._source.reference.domain, self._source.reference.path, known)

    # Images

    def _save(self, target: Descriptor) -> Image:
        """Name what was fetched; the normalised reference comes last, so that whoever sees it sees all."""
        names = [*self._options.names, self._source.reference.canonical]
        images = self._stores.images
        saved = [save_image(images, Image(name, target, self._options.labels)) for name in dict.fromkeys(names)]
        return saved[-1]
