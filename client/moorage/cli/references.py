"""Names of images as people write them."""

from __future__ import annotations

from moorage.dangling import dangling_digest
from moorage_api.errors import InvalidArgument
from moorage_api.oci import reference as references


def familiar(name: str) -> str:
    """`busybox:latest` for `docker.io/library/busybox:latest`; a name that another client chose is shown as it is."""
    try:
        return references.parse_exact(name).familiar
    except InvalidArgument:
        return name


def repository(name: str) -> str:
    """The name without its tag or digest, in the short form."""
    try:
        reference = references.parse_exact(name)
    except InvalidArgument:
        return name
    return references.Reference(reference.domain, reference.path).familiar


def brief(name: str) -> str:
    """As `familiar`, and without a tag that goes without saying: `busybox`; a short digest for an image without a name."""
    digest = dangling_digest(name)
    if digest:
        return digest.partition(":")[2][:12]
    try:
        reference = references.parse_exact(name)
    except InvalidArgument:
        return name
    if reference.tag == references.DEFAULT_TAG and not reference.digest:
        reference = references.Reference(reference.domain, reference.path)
    return reference.familiar
