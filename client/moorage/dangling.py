"""Images without a name. Each image of containerd's has one: such an image bears its own digest, as docker has it."""

from __future__ import annotations

from moorage_api.images import Image

_PREFIX = "moby-dangling@"


def dangling_name(digest: str) -> str:
    """What an image without a name is called, by the digest of its manifest."""
    return f"{_PREFIX}{digest}"


def is_dangling(image: Image) -> bool:
    """Whether nobody has given the image a name."""
    return image.name == dangling_name(image.target.digest)


def dangling_digest(name: str) -> str:
    """The digest in the name of an image without a name; empty for any other."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""
