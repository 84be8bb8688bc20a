"""An export: the images' blobs as an OCI layout in one tar, which `docker load` reads too. Nothing is written to disk.

Source: image-spec, image-layout; the Docker Image Specification, version 1.2, `manifest.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from moorage_api.content import BlobReader
from moorage_api.core import Stores
from moorage_api.errors import DataLoss, InvalidArgument, NotFound
from moorage_api.images import Image
from moorage_api.oci import build, image
from moorage_api.oci.platforms import default_platform, format_platform, only
from moorage_api.transfer import ByteSink, ExportOptions
from moorage_api.types import Descriptor
from mooraged.differ.tar import writer
from mooraged.differ.tar.events import Entry, Type
from mooraged.transfer.archive.names import annotations_for, docker_tag
from mooraged.transfer.archive.reader import DOCKER, INDEX, LAYOUT
from mooraged.transfer.archive.tree import Leaf, indexes, leaf, manifests
from mooraged.transfer.documents import find_stored
from mooraged.transfer.progress import Reporter
from mooraged.transfer.threads import Threads

_CHUNK = 1 << 20
_LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}


class Export:
    """One export from one namespace, under a lease that `stores` is bound to."""

    def __init__(self, threads: Threads, stores: Stores, options: ExportOptions, reporter: Reporter) -> None:
        self._threads = threads
        self._stores = stores
        self._options = options
        self._reporter = reporter
        self._blobs: dict[str, Descriptor] = {}
        self._docker: dict[str, dict[str, Any]] = {}

    async def run(self, names: Sequence[str], sink: ByteSink) -> None:
        """Write it all. What is missing is found out before the first byte."""
        images = await self._threads.run(lambda: [self._stores.images.get(name) for name in names])
        for stored in images:
            await self._threads.run(self._collect, stored)
        for name, data in self._documents(images):
            await sink(_file(name, len(data), 0o644) + data + writer.padding(len(data)))
        for folder in ("blobs", *sorted({f"blobs/{digest.partition(':')[0]}" for digest in self._blobs})):
            await sink(writer.header(Entry(folder.encode() + b"/", Type.FOLDER, mode=0o755)))
        for digest in sorted(self._blobs):
            await self._blob(self._blobs[digest], sink)
        await sink(writer.END)

    # What goes in

    def _collect(self, stored: Image) -> None:
        for document in indexes(self._stores, stored.target):
            self._blobs[document.digest] = document
        leaves = self._leaves(stored)
        for found in leaves:
            self._blobs[found.descriptor.digest] = found.descriptor
            for blob in found.blobs:
                if self._options.non_distributable or not image.is_foreign(blob.media_type):
                    self._blobs[blob.digest] = blob
        self._note_for_docker(stored.name, leaves)

    def _leaves(self, stored: Image) -> list[Leaf]:
        if not image.is_index(stored.target.media_type) and not image.is_manifest(stored.target.media_type):
            raise InvalidArgument(f"{stored.name!r} is neither an index nor a manifest: {stored.target.media_type!r}")
        if self._options.all_platforms or image.is_manifest(stored.target.media_type):
            return [leaf(self._stores, manifest) for manifest in manifests(self._stores, stored.target)]
        leaves = []
        for platform in self._options.platforms or (default_platform(),):
            found = find_stored(self._stores.content, stored.target, only(platform))
            if found is None:
                raise NotFound(f"image {stored.name!r} has nothing for {format_platform(platform)} here")
            leaves.append(leaf(self._stores, found.descriptor))
        return leaves

    def _note_for_docker(self, name: str, leaves: Sequence[Leaf]) -> None:
        """Docker's older loaders know one manifest a name: this machine's where it is among them, else the first."""
        runnable = [found for found in leaves if image.is_config(found.manifest.config.media_type)]
        if not runnable:
            return
        matcher = only(default_platform())
        own = [x for x in runnable if x.descriptor.platform is not None and matcher.matches(x.descriptor.platform)]
        chosen = [*own, *runnable][0]
        entry = self._docker.setdefault(
            chosen.descriptor.digest,
            {
                "Config": _path(chosen.manifest.config.digest),
                "RepoTags": [],
                "Layers": [_path(layer.digest) for layer in chosen.manifest.layers],
            },
        )
        tag = docker_tag(name)
        if tag and tag not in entry["RepoTags"]:
            entry["RepoTags"].append(tag)

    def _documents(self, images: Sequence[Image]) -> list[tuple[str, bytes]]:
        entries = [_named(stored) for stored in images]
        documents = [(LAYOUT, build.encode(_LAYOUT_VERSION)), (INDEX, build.index(entries))]
        if self._options.docker_manifest and self._docker:
            documents.append((DOCKER, build.encode(list(self._docker.values()))))
        return documents

    # How it goes out

    async def _blob(self, descriptor: Descriptor, sink: ByteSink) -> None:
        """One blob, verified on its way. `DataLoss`: the archive is then cut short, and no reader takes it."""
        await sink(_file(_path(descriptor.digest), descriptor.size, 0o444))
        algorithm, _, expected = descriptor.digest.partition(":")
        digest = hashlib.new(algorithm)
        content = self._stores.content
        reader = await self._threads.obtain(lambda: content.open(descriptor.digest), lambda opened: opened.close())
        try:
            for offset in range(0, descriptor.size, _CHUNK):
                piece = await self._threads.run(_piece, reader, offset, descriptor, digest)
                await sink(piece)
                self._reporter.bytes("exporting", len(piece))
        finally:
            await self._threads.run(reader.close)
        if digest.hexdigest() != expected:
            raise DataLoss(f"the store's {descriptor.digest} is {algorithm}:{digest.hexdigest()}")
        await sink(writer.padding(descriptor.size))


def _piece(reader: BlobReader, offset: int, descriptor: Descriptor, digest: Any) -> bytes:
    wanted = min(_CHUNK, descriptor.size - offset)
    piece = b""
    while len(piece) < wanted:
        more = reader.pread(wanted - len(piece), offset + len(piece))
        if not more:
            raise DataLoss(f"the store's {descriptor.digest} ends at byte {offset + len(piece)}")
        piece += more
    digest.update(piece)
    return piece


def _named(stored: Image) -> Descriptor:
    target = stored.target
    return Descriptor(target.media_type, target.digest, target.size, annotations_for(stored.name), target.platform)


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _file(name: str, size: int, mode: int) -> bytes:
    return writer.header(Entry(name.encode(), Type.FILE, mode=mode, size=size))
