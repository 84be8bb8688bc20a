"""What refers to a manifest: signatures, SBOMs and other artifacts.

Source: distribution-spec, "Listing Referrers", and its tag schema for registries that have no such list.
"""

from __future__ import annotations

from moorage_api.errors import DataLoss, InvalidArgument, NotFound
from moorage_api.oci import image
from moorage_api.types import Descriptor
from mooraged.transfer.client import read_body
from mooraged.transfer.failures import HostFailure
from mooraged.transfer.hosts import PULL, REFERRERS, Host
from mooraged.transfer.resolver import ACCEPT
from mooraged.transfer.source import Source

_NEEDED = frozenset({PULL, REFERRERS})
_NO_SUCH_LIST = frozenset({400, 404, 405, 501})


async def referrers(source: Source, subject: Descriptor, artifact_type: str = "") -> list[Descriptor]:
    """The manifests that name `subject`, of one artifact type or of all. Errors as `Source.ask`."""
    what = f"list the referrers of {subject.digest} in {source.reference.name}"
    try:
        found = await source.ask(what, lambda host: _listed(source, host, subject), _NEEDED)
    except NotFound:
        return []
    return [entry for entry in found if artifact_type in ("", entry.artifact_type)]


async def _listed(source: Source, host: Host, subject: Descriptor) -> list[Descriptor]:
    """The registry's own list; where it has none, the index under the tag that stands in for it."""
    try:
        return await _index(source, host, "referrers", subject.digest)
    except HostFailure as failure:
        if failure.status not in _NO_SUCH_LIST:
            raise
    return await _index(source, host, "manifests", subject.digest.replace(":", "-", 1))


async def _index(source: Source, host: Host, kind: str, name: str) -> list[Descriptor]:
    async with source.request(host, "GET", kind, name, ACCEPT) as response:
        data = await read_body(response, image.MANIFEST_MAX)
    try:
        return image.parse_index(data, image.OCI_INDEX).children()
    except InvalidArgument as error:
        raise HostFailure(DataLoss(f"its list of referrers cannot be read: {error}")) from None
