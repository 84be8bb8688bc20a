"""What the documents of a stored image say: which manifest is this machine's, its configuration, its size."""

from __future__ import annotations

from dataclasses import dataclass

from moorage_api.content import ContentStore
from moorage_api.errors import NotFound, ResourceExhausted
from moorage_api.oci import image as oci
from moorage_api.oci.platforms import PlatformMatcher, default_platform, only
from moorage_api.types import Descriptor


@dataclass(frozen=True, slots=True)
class ImageContent:
    """An image's own content. `id` is the digest of its configuration; `size` what its documents and layers have in
    bytes, compressed as they are."""

    id: str
    chain_id: str
    size: int
    config: oci.ImageConfig


def read(content: ContentStore, target: Descriptor) -> ImageContent:
    """Read the documents of what an image points at. `NotFound` where one is missing or none is for this machine;
    otherwise the errors of `moorage_api.oci.image`."""
    matcher = only(default_platform())
    found, size = _manifest(content, target, matcher, 0)
    manifest = oci.parse_manifest(_blob(content, found, oci.MANIFEST_MAX), found.media_type)
    config = oci.parse_config(_blob(content, manifest.config.descriptor(), oci.CONFIG_MAX))
    chain = oci.chain_ids(config.rootfs.diff_ids)
    size += sum(child.size for child in manifest.children())
    return ImageContent(manifest.config.digest, chain[-1] if chain else "", size, config)


def _manifest(
    content: ContentStore, descriptor: Descriptor, matcher: PlatformMatcher, depth: int
) -> tuple[Descriptor, int]:
    """The manifest for this machine, and the size of the documents on the way to it, its own included."""
    if not oci.is_index(descriptor.media_type):
        return descriptor, descriptor.size
    if depth >= oci.DEPTH_MAX:
        raise ResourceExhausted(f"index {descriptor.digest} is nested too deeply")
    index = oci.parse_index(_blob(content, descriptor, oci.MANIFEST_MAX), descriptor.media_type)
    ranked = [(rank, child) for child in index.children() if (rank := _rank(matcher, child)) is not None]
    for _, child in sorted(ranked, key=lambda entry: entry[0]):
        try:
            found, size = _manifest(content, child, matcher, depth + 1)
            content.info(found.digest)
        except NotFound:
            continue
        return found, size + descriptor.size
    raise NotFound(f"image index {descriptor.digest} has no manifest for this machine in the store")


def _rank(matcher: PlatformMatcher, child: Descriptor) -> int | None:
    """How well an entry of an index fits this machine; one that does not say for what it is comes last."""
    return len(matcher.order) if child.platform is None else matcher.rank(child.platform)


def _blob(content: ContentStore, descriptor: Descriptor, most: int) -> bytes:
    with content.open(descriptor.digest) as reader:
        if reader.size > most:
            raise ResourceExhausted(f"{descriptor.digest} has {reader.size} bytes: at most {most} are read")
        data = bytearray()
        while chunk := reader.pread(reader.size - len(data), len(data)):
            data += chunk
            if len(data) >= reader.size:
                break
        return bytes(data)
