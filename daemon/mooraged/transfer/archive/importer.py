"""An import: the archive's bytes become blobs, its documents say which images they are, and those get names last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from moorage_api.core import Stores
from moorage_api.errors import InvalidArgument
from moorage_api.images import Image
from moorage_api.oci import build, image
from moorage_api.oci.platforms import default_platform, only
from moorage_api.transfer import ByteSource, ImportOptions
from moorage_api.types import Descriptor, Platform
from mooraged.transfer.archive.docker import DockerArchive
from mooraged.transfer.archive.names import index_names, names_for
from mooraged.transfer.archive.reader import DOCKER, INDEX, LAYOUT, LEGACY, ArchiveReader, Contents
from mooraged.transfer.archive.tree import Adoption
from mooraged.transfer.documents import find_stored, store_blob
from mooraged.transfer.progress import Reporter
from mooraged.transfer.stores import save_image
from mooraged.transfer.threads import Threads

_BATCH = 1 << 20
_VERSIONS = ("1.0.0",)

Unpack = Callable[[Image, Platform | None], Awaitable[object]]
"""Makes the snapshots of one image; None for this machine's platform."""


class _Layout(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str = ""


class Import:
    """One import into one namespace, under a lease that `stores` is bound to."""

    def __init__(
        self, threads: Threads, stores: Stores, lease: str, options: ImportOptions, reporter: Reporter, unpack: Unpack
    ) -> None:
        self._threads = threads
        self._stores = stores
        self._options = options
        self._reporter = reporter
        self._unpack = unpack
        self._adoption = Adoption(stores, lease, options.platforms)

    async def run(self, source: ByteSource) -> list[Image]:
        """Read all of it, and save the images."""
        contents = await self._read(source)
        root, children = await self._threads.run(self._adopt, contents)
        if self._options.unpack:
            for child in children:
                await self._unpack_one(child)
        saved = await self._threads.run(self._save, root, children)
        for stored in saved:
            self._reporter.image("saved", stored.target, stored.name)
        return saved

    async def _read(self, source: ByteSource) -> Contents:
        reader = ArchiveReader(self._stores.content)
        batch = bytearray()
        try:
            async for piece in source:
                batch += piece
                if len(batch) >= _BATCH:
                    await self._threads.run(reader.write, bytes(batch))
                    self._reporter.bytes("importing", len(batch))
                    batch.clear()
            await self._threads.run(reader.write, bytes(batch))
            return await self._threads.run(reader.finish)
        finally:
            await self._threads.run(reader.close)

    def _adopt(self, contents: Contents) -> tuple[Descriptor, list[Descriptor]]:
        """The archive's index and its images, all of which are here and held."""
        data = self._index(contents)
        root = build.describe(data, image.OCI_INDEX)
        self._store(root, data)
        children = [child for child in image.parse_index(data).children() if self._adoption.wants(child)]
        if not children:
            raise InvalidArgument("the archive has no image for any of the platforms asked for")
        self._adoption.adopt(root)
        return root, children

    def _index(self, contents: Contents) -> bytes:
        documents = contents.documents
        if LAYOUT in documents:
            _check_layout(documents[LAYOUT])
            if INDEX not in documents:
                raise InvalidArgument(f"the archive has {LAYOUT} and no {INDEX}")
            return documents[INDEX]
        if DOCKER in documents or LEGACY in documents:
            archive = DockerArchive(self._stores.content, contents, self._store, compress=self._options.compress)
            return build.index(archive.manifests())
        raise InvalidArgument(f"this is no archive of images: it has neither {LAYOUT} nor {DOCKER} nor {LEGACY}")

    def _store(self, descriptor: Descriptor, data: bytes) -> None:
        store_blob(self._stores.content, descriptor, data)

    async def _unpack_one(self, child: Descriptor) -> None:
        """Unpack for each platform asked for; without any, for this machine's where the image has it."""
        stored = Image(child.digest, child)
        for platform in self._options.platforms:
            await self._unpack(stored, platform)
        if not self._options.platforms and await self._threads.run(self._runs_here, child):
            await self._unpack(stored, None)

    def _runs_here(self, child: Descriptor) -> bool:
        """Whether the image has a root file system for this machine, as far as it says."""
        if not image.is_index(child.media_type) and not image.is_manifest(child.media_type):
            return False
        found = find_stored(self._stores.content, child, only(default_platform()))
        return found is not None and image.is_config(found.manifest.config.media_type)

    def _save(self, root: Descriptor, children: Sequence[Descriptor]) -> list[Image]:
        options = self._options
        named = [(name, root) for name in index_names(options.index_name, options.rules, root.digest)]
        named += [(name, _bare(child)) for child in children for name in names_for(child, options.rules)]
        return [save_image(self._stores.images, Image(name, target, options.labels)) for name, target in named]


def _bare(child: Descriptor) -> Descriptor:
    """An image's target is what it is, whatever the archive noted on it."""
    return Descriptor(child.media_type, child.digest, child.size)


def _check_layout(data: bytes) -> None:
    try:
        version = msgspec.json.decode(data, type=_Layout).image_layout_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the archive's {LAYOUT} is not well-formed: {error}") from None
    if version not in _VERSIONS:
        raise InvalidArgument(f"the archive's layout is of version {version[:40]!r}: expected {', '.join(_VERSIONS)}")
