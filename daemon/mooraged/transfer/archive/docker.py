"""What `docker save` writes when it writes no OCI layout: `manifest.json` (since Docker 1.10), or `repositories` alone.

Source: the Docker Image Specification, versions 1.0 to 1.2
(https://github.com/moby/docker-image-spec).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from moorage_api.content import ContentStore
from moorage_api.errors import InvalidArgument, ResourceExhausted
from moorage_api.oci import build, image
from moorage_api.types import Descriptor
from mooraged.transfer import v1
from mooraged.transfer.archive.names import annotations_for, from_docker_tag
from mooraged.transfer.archive.reader import DOCKER, LEGACY, Contents
from mooraged.transfer.documents import read_blob
from mooraged.transfer.recompress import GZIP, detect, recompress, uncompressed_digest

_LAYERS = {"": image.DOCKER_LAYER, "gzip": image.DOCKER_LAYER_GZIP, "zstd": f"{image.DOCKER_LAYER}.zstd"}

Store = Callable[[Descriptor, bytes], None]
"""Makes a document a blob."""


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: tuple[str, ...] | None = ()
    layers: tuple[str, ...] | None = ()


class DockerArchive:
    """Makes manifests for the images of one archive, whose files are blobs already. Blocks its caller."""

    def __init__(self, content: ContentStore, contents: Contents, store: Store, *, compress: bool) -> None:
        self._content = content
        self._contents = contents
        self._store = store
        self._compress = compress

    def manifests(self) -> list[Descriptor]:
        """The manifests, each as often as it has names, which are in their annotations. `InvalidArgument`."""
        if DOCKER in self._contents.documents:
            saved = _decode(self._contents.documents[DOCKER], tuple[_Saved, ...], DOCKER)
            if len(saved) > image.ENTRIES_MAX:
                raise ResourceExhausted(f"the archive has {len(saved)} images: at most {image.ENTRIES_MAX} are read")
            return [named for entry in saved for named in _named(self._manifest(entry), entry.repo_tags or ())]
        repositories = _decode(self._contents.documents[LEGACY], dict[str, dict[str, str]], LEGACY)
        tags: dict[str, list[str]] = {}
        for repository, by_tag in repositories.items():
            for tag, id in by_tag.items():
                tags.setdefault(id, []).append(f"{repository}:{tag}")
        return [named for id, names in tags.items() for named in _named(self._legacy(id), names)]

    def _manifest(self, saved: _Saved) -> Descriptor:
        config = self._contents.blob(saved.config)
        config = Descriptor(image.DOCKER_CONFIG, config.digest, config.size)
        document = image.parse_config(read_blob(self._content, config, image.CONFIG_MAX))
        files = saved.layers or ()
        if len(files) != len(document.rootfs.diff_ids):
            raise InvalidArgument(
                f"the archive's image {saved.config[:80]!r} has {len(files)} layers, "
                f"its configuration {len(document.rootfs.diff_ids)} diff IDs"
            )
        layers = [
            self._layer(self._contents.blob(file), diff_id)
            for file, diff_id in zip(files, document.rootfs.diff_ids, strict=True)
        ]
        return self._write(config, layers)

    def _layer(self, blob: Descriptor, diff_id: str = "") -> Descriptor:
        """What kind of layer a blob is: its bytes say. Uncompressed ones are checked here, the others when unpacked."""
        kind = detect(self._content, blob)
        if kind == "" and diff_id and blob.digest != diff_id:
            raise InvalidArgument(f"the archive's layer {blob.digest} is not {diff_id}, as the configuration says")
        if kind == "" and self._compress:
            return recompress(self._content, blob, image.DOCKER_LAYER_GZIP, GZIP)[0]
        return Descriptor(_LAYERS[kind], blob.digest, blob.size)

    def _legacy(self, id: str) -> Descriptor:
        """An image of version 1.0: its chain of documents, from `id` down to the base."""
        chain: list[Mapping[str, Any]] = []
        layers: list[Descriptor] = []
        diff_ids: list[str] = []
        parent: object = id
        while parent:
            path = f"{parent}/json"
            if path not in self._contents.documents or len(chain) > image.ENTRIES_MAX:
                raise InvalidArgument(f"the archive has no {path[:200]!r}, or its chain of layers has no end")
            step = _decode(self._contents.documents[path], dict[str, Any], path)
            layer = self._layer(self._contents.blob(f"{parent}/layer.tar"))
            chain.insert(0, step)
            layers.insert(0, layer)
            diff_ids.insert(0, uncompressed_digest(self._content, layer))
            parent = step.get("parent")
        data = v1.config_of(chain, diff_ids)
        config = build.describe(data, image.DOCKER_CONFIG)
        self._store(config, data)
        return self._write(config, layers)

    def _write(self, config: Descriptor, layers: Sequence[Descriptor]) -> Descriptor:
        data = build.manifest(config, layers, image.DOCKER_MANIFEST)
        described = build.describe(data, image.DOCKER_MANIFEST)
        self._store(described, data)
        platform = image.parse_config(read_blob(self._content, config, image.CONFIG_MAX)).platform()
        return Descriptor(described.media_type, described.digest, described.size, {}, platform)


def _named(manifest: Descriptor, tags: Sequence[str]) -> list[Descriptor]:
    return [_with_name(manifest, tag) for tag in tags] or [manifest]


def _with_name(manifest: Descriptor, tag: str) -> Descriptor:
    annotations = annotations_for(from_docker_tag(tag))
    return Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations, manifest.platform)


def _decode(data: bytes, form: Any, path: str) -> Any:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the archive's {path[:200]!r} is not well-formed: {error}") from None
