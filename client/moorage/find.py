"""Containers by what people call them: a name, an id, or the beginning of an id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moorage import labels
from moorage.container import ContainerHandle
from moorage_api.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from moorage.client import Client

_HEX = re.compile(r"[0-9a-f]+")
_SAFE = re.compile(r"[A-Za-z0-9_.-]+")


async def find(client: Client, wanted: str) -> ContainerHandle:
    """The container of that id, that name, or with the only id that begins so: in this order.

    `NotFound`; `InvalidArgument` where several ids begin so.
    """
    if not _SAFE.fullmatch(wanted):
        raise NotFound(f"no such container: {wanted!r}")
    filters = [f'id=="{wanted}"', f'labels."{labels.NAME}"=="{wanted}"']
    if _HEX.fullmatch(wanted):
        filters.append(f'id~="^{wanted}"')
    found = await client.containers.list(*filters)
    for exact in (
        [record for record in found if record.id == wanted],
        [record for record in found if record.labels.get(labels.NAME) == wanted],
    ):
        if exact:
            return ContainerHandle(client, exact[0])
    if not found:
        raise NotFound(f"no such container: {wanted} (in the namespace {client.namespace!r})")
    if len(found) > 1:
        ids = ", ".join(sorted(record.id[:16] for record in found))
        raise InvalidArgument(f"several containers have ids that begin with {wanted}: {ids}")
    return ContainerHandle(client, found[0])
