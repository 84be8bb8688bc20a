"""How a container is removed."""

from __future__ import annotations

from moorage_cri import events
from moorage_cri.container import image_volumes, stopping
from moorage_cri.container.create import remove_record, remove_snapshot
from moorage_cri.container.start import discard_task
from moorage_cri.context import Cri
from moorage_cri.model import Container
from moorage_cri.nri import lifecycle
from moorage_cri.sandbox import files


async def remove(cri: Cri, container: Container) -> None:
    """Remove a container with all it holds, by force if it runs. May be repeated after an error at any step."""
    async with container.lock:
        if container.id not in cri.containers:
            return
        container.removing = True
        try:
            await stopping.stop(cri, container, 0)
            await lifecycle.stop_container(cri, container)
            await lifecycle.remove_container(cri, container)
            await stopping.buried(container)
            await discard_task(cri, container.id)
            await cri.run(_remove, cri, container)
        except BaseException:
            container.removing = False
            raise
        cri.containers.discard(container.id)
        cri.container_names.release(container.name, container.id)
        events.tell(cri, container, events.DELETED)
        # Nobody need wait for a disk that is busy: to remove a folder may take longer than all else. What a crash or an
        # error leaves of it, which has no record any more, is removed by the next start.
        cri.background.start(f"files of container {container.id}", cri.run(_remove_files, cri, container))


def _remove(cri: Cri, container: Container) -> None:
    """The record last of what is in the store, so that a removal that was cut short is seen and repeated."""
    image_volumes.remove(cri, container)
    with cri.k8s.batch():
        remove_snapshot(cri, container)
        remove_record(cri, container.id)


def _remove_files(cri: Cri, container: Container) -> None:
    if container.config.stdin:
        files.remove(cri.stdin_path(container.id).parent)
    files.remove(cri.container_folder(container.id))
