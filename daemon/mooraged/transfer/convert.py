"""An image in another form: layers compressed otherwise, Docker's documents as OCI's. The tars of the layers stay the
same, so their diff IDs do, and with them the configuration and the snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moorage_api.core import Stores
from moorage_api.errors import InvalidArgument, NotFound, ResourceExhausted
from moorage_api.images import Image
from moorage_api.oci import build, image
from moorage_api.oci.platforms import any_of
from moorage_api.transfer import ConvertOptions
from moorage_api.types import Descriptor
from mooraged.differ.media import Compression
from mooraged.transfer.documents import read_blob, store_blob
from mooraged.transfer.fetcher import set_labels
from mooraged.transfer.labels import children_labels
from mooraged.transfer.progress import Reporter
from mooraged.transfer.recompress import detect, recompress
from mooraged.transfer.stores import save_image
from mooraged.transfer.threads import Threads

_KINDS: dict[str, Compression] = {"gzip": "gzip", "zstd": "zstd", "uncompressed": ""}
_OCI: dict[Compression, str] = {"": image.OCI_LAYER, "gzip": image.OCI_LAYER_GZIP, "zstd": image.OCI_LAYER_ZSTD}
_DOCKER: dict[Compression, str] = {"": image.DOCKER_LAYER, "gzip": image.DOCKER_LAYER_GZIP}
_TO_OCI = {
    image.DOCKER_LIST: image.OCI_INDEX,
    image.DOCKER_MANIFEST: image.OCI_MANIFEST,
    image.DOCKER_CONFIG: image.OCI_CONFIG,
}


class Conversion:
    """One conversion in one namespace, under a lease that `stores` is bound to."""

    def __init__(self, threads: Threads, stores: Stores, options: ConvertOptions, reporter: Reporter) -> None:
        if options.compression and options.compression not in _KINDS:
            raise InvalidArgument(f"compression {options.compression!r}: expected {', '.join(_KINDS)}")
        self._threads = threads
        self._stores = stores
        self._options = options
        self._reporter = reporter
        # Docker has no media type for zstd that Docker itself reads everywhere.
        self._oci = options.oci or options.compression == "zstd"

    async def run(self, stored: Image, name: str) -> Image:
        """Convert what is here of the image's platforms, and save it as `name`. Manifests that are not here are left out
        of a new index."""
        made = await self._convert(stored.target, 0)
        if made is None:
            raise NotFound(f"nothing of image {stored.name!r} is here for the platforms asked for")
        wanted = Image(name, Descriptor(made.media_type, made.digest, made.size), self._options.labels)
        return await self._threads.run(save_image, self._stores.images, wanted)

    async def _convert(self, root: Descriptor, depth: int) -> Descriptor | None:
        if depth > image.DEPTH_MAX:
            raise ResourceExhausted(f"{root.digest} is the last of more than {depth} indexes within each other")
        try:
            data = await self._threads.run(read_blob, self._stores.content, root, image.MANIFEST_MAX)
        except NotFound:
            return None
        if image.is_index(root.media_type):
            return await self._index(root, data, depth)
        if image.is_manifest(root.media_type):
            return await self._manifest(root, data)
        raise InvalidArgument(f"{root.digest} is neither an index nor a manifest: {root.media_type!r}")

    async def _index(self, root: Descriptor, data: bytes, depth: int) -> Descriptor | None:
        document = image.parse_index(data, root.media_type)
        children = []
        for child in document.children():
            if (
                self._options.platforms
                and child.platform
                and not any_of(self._options.platforms).matches(child.platform)
            ):
                continue
            made = await self._convert(child, depth + 1)
            if made is not None:
                children.append(replace(made, platform=child.platform, annotations=child.annotations))
        if not children:
            return None
        media_type = self._type_of(root.media_type)
        return await self._store(build.index(children, media_type, document.annotations), media_type, children)

    async def _manifest(self, root: Descriptor, data: bytes) -> Descriptor:
        document = image.parse_manifest(data, root.media_type)
        config, *layers = document.children()
        if not image.is_config(config.media_type):
            return root  # no image: what its blobs are is not ours to change
        read = await self._threads.run(read_blob, self._stores.content, config, image.CONFIG_MAX)
        diff_ids = image.parse_config(read).rootfs.diff_ids
        if len(diff_ids) != len(layers):
            raise InvalidArgument(f"{root.digest} has {len(layers)} layers, its configuration {len(diff_ids)} diff IDs")
        made = [await self._layer(layer, diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True)]
        config = replace(config, media_type=self._type_of(config.media_type))
        media_type = self._type_of(root.media_type)
        if made == layers and media_type == root.media_type:
            return root
        return await self._store(
            build.manifest(config, made, media_type, document.annotations), media_type, [config, *made]
        )

    async def _layer(self, layer: Descriptor, diff_id: str) -> Descriptor:
        if image.is_foreign(layer.media_type) or not image.is_layer(layer.media_type):
            return layer
        known = await self._threads.run(detect, self._stores.content, layer)
        kind = _KINDS[self._options.compression] if self._options.compression else known
        media_type = self._layer_type(layer.media_type, kind)
        if kind == known:
            return replace(layer, media_type=media_type)
        self._reporter.blob(layer).state("converting")
        made, _ = await self._threads.run(recompress, self._stores.content, layer, media_type, kind, diff_id)
        return replace(made, annotations=layer.annotations)

    def _layer_type(self, media_type: str, kind: Compression) -> str:
        docker = media_type.startswith(image.DOCKER_LAYER) and not self._oci
        return _DOCKER.get(kind, media_type) if docker else _OCI[kind]

    def _type_of(self, media_type: str) -> str:
        return _TO_OCI.get(media_type, media_type) if self._oci else media_type

    async def _store(self, data: bytes, media_type: str, children: Sequence[Descriptor]) -> Descriptor:
        made = build.describe(data, media_type)

        def work() -> None:
            store_blob(self._stores.content, made, data)
            set_labels(self._stores.content, made.digest, children_labels(children))

        await self._threads.run(work)
        return made
