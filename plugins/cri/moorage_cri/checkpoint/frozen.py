"""Containers that stand still while a checkpoint of all of them is taken, and never for longer.

Of each that is to be frozen there is a mark on disk first: a daemon that dies meanwhile thaws them at its next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from moorage_api.errors import FailedPrecondition, MoorageError, NotFound
from moorage_cri.concurrency import finish
from moorage_cri.context import Cri
from moorage_cri.model import Container

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


@asynccontextmanager
async def frozen(cri: Cri, containers: Sequence[Container]) -> AsyncIterator[None]:
    """Freeze all of them for the block; whatever happens, they are thawed when it is left."""
    ids = [container.id for container in containers]
    folder = _folder(cri)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for id in ids:
            (folder / id).touch()
        await asyncio.gather(*(cri.k8s.tasks.pause(id) for id in ids))
        yield
    finally:
        await finish(thaw(cri, ids))


async def thaw(cri: Cri, ids: Sequence[str]) -> None:
    """Let containers run on; one that was not frozen, or is gone, does not matter. One that cannot be thawed yet (its shim
    may be busy with the checkpoint still) is tried again in the background."""
    thawed = await asyncio.gather(*(_thaw(cri, id) for id in ids))
    left = [id for id, done in zip(ids, thawed, strict=True) if not done]
    if left:
        cri.background.start("containers frozen for a checkpoint", _thaw_later(cri, left))


def marked(cri: Cri) -> list[str]:
    """The containers that an earlier run of the daemon froze and did not thaw."""
    folder = _folder(cri)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def _thaw_later(cri: Cri, ids: Sequence[str]) -> None:
    await asyncio.sleep(_RETRY_SECONDS)
    await thaw(cri, ids)


async def _thaw(cri: Cri, id: str) -> bool:
    try:
        await cri.k8s.tasks.resume(id)
    except (NotFound, FailedPrecondition) as error:
        logger.debug("container %s need not be thawed: %s", id, error)
    except MoorageError as error:
        logger.warning("container %s is still frozen after a checkpoint: %s", id, error)
        return False
    (_folder(cri) / id).unlink(missing_ok=True)
    return True


def _folder(cri: Cri) -> Path:
    # Not kept over a reboot: then nothing is frozen any more.
    return cri.state / "frozen"
