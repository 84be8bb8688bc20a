"""Names of images as people write them."""

from __future__ import annotations

from moorage_api.errors import InvalidArgument
from moorage_api.oci import reference as references


def familiar(name: str) -> str:
    """`busybox:latest` for `docker.io/library/busybox:latest`; a name that another client chose is shown as it is."""
    try:
        return references.parse_exact(name).familiar
    except InvalidArgument:
        return name


def brief(name: str) -> str:
    """As `familiar`, and without a tag that goes without saying: `busybox`."""
    try:
        reference = references.parse_exact(name)
    except InvalidArgument:
        return name
    if reference.tag == references.DEFAULT_TAG and not reference.digest:
        reference = references.Reference(reference.domain, reference.path)
    return reference.familiar
