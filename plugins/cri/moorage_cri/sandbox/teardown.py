"""Taking down what a pod is made of. Every step may be repeated, and none waits for ever."""

from __future__ import annotations

import logging

from moorage_api.errors import MoorageError
from moorage_cri.context import Cri

logger = logging.getLogger(__name__)

# How long a shim may take to end by itself before it is killed, in seconds.
SHIM_SECONDS = 4.0


async def end_network(cri: Cri, id: str) -> None:
    """Take a pod's network down now; what fails is tried again in the background."""
    try:
        await cri.network.detach(id)
    except MoorageError as error:
        logger.warning("the network of pod %s could not be taken down yet: %s", id, error)
        end_network_later(cri, id)


def end_network_later(cri: Cri, id: str) -> None:
    """Take a pod's network down in the background, and then its namespace, into which DEL looks."""
    cri.network.detach_later(id, lambda: end_namespace(cri, id))


async def end_namespace(cri: Cri, id: str) -> None:
    """Unpin a pod's network namespace, unless its network still stands: then that is done after it."""
    if not cri.network.stands(id):
        await cri.run(cri.namespaces.remove, id)


async def end_shim(cri: Cri, id: str) -> None:
    """End a pod's shim with all that runs in it, and remove what it had pinned."""
    controller = cri.k8s.sandbox_controller
    await controller.stop(id, SHIM_SECONDS)
    await controller.shutdown(id)
