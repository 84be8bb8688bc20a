"""A push: blobs side by side, then manifests, then indexes, and the tag last, so that nobody sees a half of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_api.core import Stores
from moorage_api.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage_api.images import Image
from moorage_api.oci import image
from moorage_api.oci.platforms import any_of, format_platform, only
from moorage_api.transfer import PushOptions
from moorage_api.types import Descriptor
from mooraged.transfer.archive.tree import Leaf, indexes, leaf, manifests
from mooraged.transfer.config import TransferConfig
from mooraged.transfer.documents import find_stored, read_blob
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.fetches import Fetches
from mooraged.transfer.hosts import PUSH, Host
from mooraged.transfer.labels import source_label, source_repositories
from mooraged.transfer.progress import Reporter
from mooraged.transfer.source import Source
from mooraged.transfer.threads import Threads
from mooraged.transfer.upload import Upload, has_manifest

_MAY_PUSH = frozenset({PUSH})
_MOUNTS_MAX = 2
"""Repositories that a blob is asked for before it is sent: each costs a request."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes to the registry: manifests with their blobs, indexes with the inner ones first, and the root, which is
    one of them. `absent` must be at the registry already."""

    root: Descriptor
    leaves: tuple[Leaf, ...]
    indexes: tuple[Descriptor, ...]
    absent: tuple[Descriptor, ...]


class Push:
    """One push from one namespace."""

    def __init__(
        self,
        threads: Threads,
        source: Source,
        stores: Stores,
        options: PushOptions,
        reporter: Reporter,
        config: TransferConfig,
    ) -> None:
        self._threads = threads
        self._source = source
        self._stores = stores
        self._options = options
        self._reporter = reporter
        self._slots = asyncio.Semaphore(config.max_concurrent_uploads)
        self._progress_timeout = config.progress_timeout

    async def run(self, stored: Image) -> Descriptor:
        """Push the image; returns what the reference names now."""
        plan = await self._threads.run(self._plan, stored)
        reference = self._source.reference
        if reference.digest and reference.digest != plan.root.digest:
            raise InvalidArgument(f"{reference} cannot name {plan.root.digest}, which is what {stored.name!r} is")
        await self._check_absent(stored, plan)
        blobs = [blob for found in plan.leaves for blob in found.blobs if not image.is_foreign(blob.media_type)]
        async with Fetches(self._blob, blobs) as uploads:
            await uploads.finish()
        inner = [*(found.descriptor for found in plan.leaves), *plan.indexes]
        for document in inner:
            if document.digest != plan.root.digest:
                await self._document(document, document.digest)
        await self._document(plan.root, reference.object)
        self._reporter.image("pushed", plan.root)
        return plan.root

    def _plan(self, stored: Image) -> _Plan:
        target, platforms = stored.target, self._options.platforms
        if not image.is_index(target.media_type) and not image.is_manifest(target.media_type):
            raise InvalidArgument(f"{stored.name!r} is neither an index nor a manifest: {target.media_type!r}")
        if len(platforms) == 1:
            found = find_stored(self._stores.content, target, only(platforms[0]))
            if found is None:
                raise NotFound(f"image {stored.name!r} has nothing for {format_platform(platforms[0])} here")
            return _Plan(found.descriptor, (leaf(self._stores, found.descriptor),), (), ())
        leaves, absent = [], []
        for manifest in manifests(self._stores, target):
            try:
                if not self._is_wanted(manifest):
                    raise NotFound("of a platform that is not asked for")
                leaves.append(leaf(self._stores, manifest))
            except NotFound:
                absent.append(manifest)
        return _Plan(target, tuple(leaves), tuple(reversed(indexes(self._stores, target))), tuple(absent))

    def _is_wanted(self, manifest: Descriptor) -> bool:
        platforms = self._options.platforms
        return not platforms or manifest.platform is None or any_of(platforms).matches(manifest.platform)

    async def _check_absent(self, stored: Image, plan: _Plan) -> None:
        """An index may be pushed only where all that it names is, or will be, at the registry."""
        for manifest in plan.absent:
            if not await self._ask(f"find {manifest.digest}", manifest):
                here = [_platform(found.descriptor) for found in plan.leaves] or ["nothing"]
                raise FailedPrecondition(
                    f"the index of {stored.name!r} names {len(plan.absent) + len(plan.leaves)} manifests, and only those "
                    f"for {', '.join(here)} are here: push one with its platform, or pull all platforms first"
                )

    async def _ask(self, what: str, manifest: Descriptor) -> bool:
        return await self._source.ask(
            f"{what} at {self._source.reference.name}",
            lambda host: has_manifest(self._source.repository, host, manifest),
            _MAY_PUSH,
        )

    async def _blob(self, descriptor: Descriptor) -> None:
        report = self._reporter.blob(descriptor)
        content = self._stores.content
        reference = self._source.reference
        info = await self._threads.run(content.info, descriptor.digest)
        known = source_repositories(reference.domain, info.labels)
        upload = Upload(
            self._source.repository,
            self._threads,
            content,
            descriptor,
            _nearest(reference.path, known),
            lambda count: report.advance(count, "uploading"),
            self._progress_timeout,
        )
        async with self._slots:
            how = await self._source.ask(
                f"push {descriptor.digest} to {reference.name}", upload.run, _MAY_PUSH, lambda: upload.arrived
            )
        label = source_label(reference.domain, reference.path, info.labels)
        await self._threads.run(set_labels, content, descriptor.digest, label)
        report.state(how)

    async def _document(self, descriptor: Descriptor, name: str) -> None:
        data = await self._threads.run(read_blob, self._stores.content, descriptor, image.MANIFEST_MAX)
        repository = self._source.repository
        headers = {"Content-Type": descriptor.media_type, "Content-Length": str(len(data))}

        async def at(host: Host) -> None:
            url = repository.url(host, "manifests", name)
            async with repository.exchange(host, "PUT", url, headers, lambda: data):
                pass

        await self._source.ask(f"push {name} to {self._source.reference.name}", at, _MAY_PUSH)
        self._reporter.blob(descriptor).state("complete")


def _nearest(path: str, known: Sequence[str]) -> list[str]:
    """The repositories to mount from: those whose path has most in common with `path`, which itself is none of them."""

    def common(other: str) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(path, other, strict=False)) if a != b), min(len(path), len(other))
        )

    others = [repository for repository in known if repository != path]
    return sorted(others, key=lambda other: (-common(other), other))[:_MOUNTS_MAX]


def _platform(manifest: Descriptor) -> str:
    return format_platform(manifest.platform) if manifest.platform else manifest.digest
