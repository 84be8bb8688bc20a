"""Finding one platform's manifest below an index, and reading documents that the store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moorage_api.content import ContentStore
from moorage_api.errors import AlreadyExists, NotFound, ResourceExhausted
from moorage_api.oci import image
from moorage_api.oci.platforms import PlatformMatcher
from moorage_api.types import Descriptor


@dataclass(frozen=True, slots=True)
class Found:
    """The manifest for one platform."""

    descriptor: Descriptor
    manifest: image.Manifest


def candidates(entries: Sequence[Descriptor], matcher: PlatformMatcher) -> list[Descriptor]:
    """The entries of an index worth a look: those that match, best first, then those that name no platform."""
    documents = [e for e in entries if image.is_manifest(e.media_type) or image.is_index(e.media_type)]
    ranked = [(matcher.rank(e.platform), e) for e in documents if e.platform is not None]
    matching = sorted(((rank, e) for rank, e in ranked if rank is not None), key=lambda pair: pair[0])
    return [*(e for _, e in matching), *(e for e in documents if e.platform is None)]


def find_stored(content: ContentStore, root: Descriptor, matcher: PlatformMatcher, depth: int = 0) -> Found | None:
    """The manifest that fits best at or below `root` among those in the store; one without an index fits always."""
    data = read_blob(content, root, image.MANIFEST_MAX)
    if image.is_manifest(root.media_type):
        return Found(root, image.parse_manifest(data, root.media_type))
    if depth == image.DEPTH_MAX:
        raise ResourceExhausted(f"{root.digest} is the last of more than {depth} indexes within each other")
    for child in candidates(image.parse_index(data, root.media_type).children(), matcher):
        try:
            found = find_stored(content, child, matcher, depth + 1)
        except NotFound:
            continue  # another platform's, which was not fetched
        if found is not None:
            return found
    return None


def read_blob(content: ContentStore, descriptor: Descriptor, most: int) -> bytes:
    """A whole blob. `ResourceExhausted` for one of more than `most` bytes, `NotFound`."""
    with content.open(descriptor.digest) as reader:
        if reader.size > most:
            raise ResourceExhausted(f"{descriptor.digest} has {reader.size} bytes: at most {most} are read")
        data = bytearray()
        while len(data) < reader.size and (piece := reader.pread(reader.size - len(data), len(data))):
            data += piece
        return bytes(data)


def store_blob(content: ContentStore, descriptor: Descriptor, data: bytes) -> None:
    """Make a document a blob, if it is none yet."""
    try:
        with content.writer(f"document-{descriptor.digest}", descriptor.size, descriptor.digest) as writer:
            if writer.status().offset:
                writer.truncate(0)
            writer.write(data)
            writer.commit(descriptor.size, descriptor.digest)
    except AlreadyExists:
        return
