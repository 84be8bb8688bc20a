"""Containers and images by what people call them: a name, an id, or the beginning of an id."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from moorage import labels
from moorage.container import ContainerHandle
from moorage.image_config import resolve
from moorage_api.errors import InvalidArgument, MoorageError, NotFound
from moorage_api.images import Image
from moorage_api.oci.reference import parse

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


async def find_images(client: Client, wanted: str) -> list[Image]:
    """The image of that name; or all names of the only image whose id, or digest, is that or begins so; or what another
    client called exactly that. `NotFound`; `InvalidArgument` where several ids begin so."""
    with contextlib.suppress(NotFound, InvalidArgument):
        return [await client.images.get(parse(wanted).canonical)]
    prefix = wanted.removeprefix("sha256:")
    listed = [(image, await _id(client, image)) for image in await client.images.list()]
    called = [pair for pair in listed if _HEX.fullmatch(prefix) and any(id.startswith(prefix) for id in _ids(*pair))]
    if len({id or image.target.digest for image, id in called}) > 1:
        raise InvalidArgument(f"several images have ids that begin with {wanted}")
    found = [image for image, id in listed if image.name == wanted or (image, id) in called]
    if not found:
        parse(wanted)
        raise NotFound(f"no such image: {wanted} (in the namespace {client.namespace!r})")
    return found


def _ids(image: Image, id: str) -> tuple[str, str]:
    """What an image without a name can be called by."""
    return id, image.target.digest.partition(":")[2]


async def _id(client: Client, image: Image) -> str:
    """The digest of an image's configuration without its algorithm; empty where it is not here."""
    try:
        return (await resolve(client.content, image)).id.partition(":")[2]
    except MoorageError:
        # Only a part of it is here, or it is for another machine: it has no id to be found by.
        return ""
