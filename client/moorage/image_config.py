"""What an image's name leads to on one platform: manifest, configuration, layers; read from the content store."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.content import Content
from moorage_api.errors import InvalidArgument, NotFound
from moorage_api.images import Image
from moorage_api.oci.image import (
    CONFIG_MAX,
    DEPTH_MAX,
    MANIFEST_MAX,
    ImageConfig,
    Manifest,
    chain_ids,
    is_index,
    is_layer,
    is_manifest,
    parse_config,
    parse_index,
    parse_manifest,
)
from moorage_api.oci.platforms import PlatformMatcher, default_platform, format_platform, only
from moorage_api.types import Descriptor, Platform


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image on one platform. `layers` are the compressed ones and `chain` their chain IDs, bottom first."""

    image: Image
    manifest: Descriptor
    config_descriptor: Descriptor
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    chain: tuple[str, ...]

    @property
    def id(self) -> str:
        """The digest of the configuration: what docker calls the image's ID."""
        return self.config_descriptor.digest

    @property
    def chain_id(self) -> str:
        """The snapshot that a container stands on; empty for an image without layers."""
        return self.chain[-1] if self.chain else ""


async def resolve(content: Content, image: Image, platform: Platform | None = None) -> ResolvedImage:
    """Follow `image` to the best manifest for `platform` (None: this machine's).

    `NotFound` where the image has nothing for the platform, or its content is not all there.
    """
    matcher = only(platform or default_platform())
    found = await _manifest(content, image.target, matcher, DEPTH_MAX)
    if found is None:
        wanted = format_platform(matcher.order[0])
        raise NotFound(f"image {image.name} has nothing for the platform {wanted} among the content that is here")
    descriptor, manifest = found
    config_descriptor = manifest.config.descriptor()
    config = parse_config(await content.read_all(config_descriptor.digest, limit=CONFIG_MAX))
    layers = tuple(layer for layer in manifest.children()[1:] if is_layer(layer.media_type))
    if len(layers) != len(config.rootfs.diff_ids):
        raise InvalidArgument(
            f"image {image.name} has {len(layers)} layers, its configuration {len(config.rootfs.diff_ids)} diff IDs"
        )
    chain = tuple(chain_ids(config.rootfs.diff_ids))
    return ResolvedImage(image, descriptor, config_descriptor, config, layers, chain)


async def _manifest(
    content: Content, target: Descriptor, matcher: PlatformMatcher, depth: int
) -> tuple[Descriptor, Manifest] | None:
    """The best manifest below `target` that is here; None where there is none for the platform."""
    if is_manifest(target.media_type):
        data = await content.read_all(target.digest, limit=MANIFEST_MAX)
        return target, parse_manifest(data, target.media_type)
    if not is_index(target.media_type) or depth == 0:
        raise InvalidArgument(f"{target.digest} is of the media type {target.media_type!r}, which is no image")
    index = parse_index(await content.read_all(target.digest, limit=MANIFEST_MAX), target.media_type)
    for child in _by_rank(index.children(), matcher):
        try:
            found = await _manifest(content, child, matcher, depth - 1)
        except NotFound:
            # A pull fetches the manifests of its own platform only: the next best may be the one that is here.
            continue
        if found is not None:
            return found
    return None


def _by_rank(children: list[Descriptor], matcher: PlatformMatcher) -> list[Descriptor]:
    """Those that match, the best first; one that names no platform may be for any, and comes last."""
    ranked: list[tuple[int, Descriptor]] = []
    for child in children:
        if not is_manifest(child.media_type) and not is_index(child.media_type):
            continue
        rank = len(matcher.order) if child.platform is None else matcher.rank(child.platform)
        if rank is not None:
            ranked.append((rank, child))
    return [child for _, child in sorted(ranked, key=lambda pair: pair[0])]
