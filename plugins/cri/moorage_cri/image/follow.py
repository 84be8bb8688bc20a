"""Keeping the image cache as the image store is, whoever changes it."""

from __future__ import annotations

import logging

from moorage_api.errors import ResourceExhausted
from moorage_api.wire import images_pb2
from moorage_cri.context import NAMESPACE, Cri

logger = logging.getLogger(__name__)

FILTERS = [f'namespace=={NAMESPACE},topic=="/images/{change}"' for change in ("create", "update", "delete")]


async def follow(cri: Cri) -> None:
    """Until cancelled: read anew each image that an event names, and all of them after falling behind."""
    behind = False
    while True:
        stream = cri.core.events.subscribe(FILTERS)
        if behind:
            await _refresh(cri)
        try:
            async for envelope in stream:
                # The three events have the name under the same number.
                name = images_pb2.ImageDelete.FromString(envelope.event.value).name
                cri.images.put(name, await cri.run(cri.images.read, name))
        except ResourceExhausted:
            logger.warning("too many image events at once: reading all images anew")
            behind = True


async def _refresh(cri: Cri) -> None:
    found = {entry[0].name: entry for entry in await cri.run(cri.images.read_all)}
    for name in {*found, *cri.images.names()}:
        cri.images.put(name, found.get(name))
