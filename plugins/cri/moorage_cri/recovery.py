"""Bringing the plugin's memory back after a restart, and removing what an interrupted call left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moorage_api import containers
from moorage_api.errors import DataLoss, MoorageError, NotFound
from moorage_api.runtime import Status
from moorage_cri import labels
from moorage_cri.checkpoint import frozen
from moorage_cri.container import image_volumes, journal, stopping
from moorage_cri.container.execution import begun_commands, sweep_commands
from moorage_cri.container.start import discard_task
from moorage_cri.context import Cri
from moorage_cri.metadata import decode_container, decode_sandbox
from moorage_cri.model import Container, Run, Sandbox, boot_id
from moorage_cri.sandbox import files, teardown
from moorage_cri.sandbox.run import forget

logger = logging.getLogger(__name__)


async def recover(cri: Cri) -> None:
    """Fill the indexes from the stores. Nothing here waits for a shim; what has to is started in the background."""
    for entry in await cri.run(cri.images.read_all):
        cri.images.put(entry[0].name, entry)
    for sandbox in await cri.run(_sandboxes, cri):
        cri.sandboxes.add(sandbox.id, sandbox)
        cri.sandbox_names.restore(sandbox.name, sandbox.id)
    for container in await cri.run(_containers, cri):
        cri.containers.add(container.id, container)
        cri.container_names.restore(container.name, container.id)
    await _restore_runs(cri)
    cri.background.start("containers frozen for a checkpoint", frozen.thaw(cri, frozen.marked(cri)))
    # Whoever was attached has gone.
    await cri.run(files.remove, cri.state / "attach")
    # What there is now is an earlier run's. Later, it could be what a call is about to make.
    left = await cri.run(_leftovers, cri)
    cri.background.start("leftovers of interrupted calls", sweep(cri, left))


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What an earlier run of the daemon had begun and not brought to an end, by id; commands by their folders."""

    networks: Sequence[str]
    pods: Sequence[str]
    namespaces: Sequence[str]
    containers: Sequence[str]
    commands: Sequence[Path]


def _leftovers(cri: Cri) -> Leftovers:
    """What belongs to no pod that is ready, or to no pod or container at all. The folder of each is made first and
    removed last."""
    return Leftovers(
        networks=[
            id for id in cri.network.known() if id not in cri.sandboxes or not cri.is_ready(cri.sandboxes.get(id))
        ],
        pods=[name for name in _names(cri.root / "sandboxes") if name not in cri.sandboxes],
        namespaces=[id for id in cri.namespaces.ids() if id not in cri.sandboxes],
        containers=[name for name in _names(cri.root / "containers") if name not in cri.containers],
        commands=begun_commands(cri),
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _sandboxes(cri: Cri) -> list[Sandbox]:
    found = []
    for record in cri.k8s.sandboxes.list([f'labels."{labels.KIND}"=={labels.KIND_SANDBOX}']):
        try:
            sandbox = decode_sandbox(record)
            sandbox.network = cri.network.restore(record.id)
        except MoorageError as error:
            logger.error("%s", error)
            continue
        if sandbox.boot == boot_id() and not files.was_made(cri.sandbox_folder(record.id)):
            # Nobody was told of it. One of an earlier boot is kept: its mark may have been lost with the power.
            continue
        status = cri.sandbox_status(record.id)
        sandbox.path = status.path if status is not None else ""
        sandbox.netns = cri.netns_path(sandbox)
        found.append(sandbox)
    return found


def _containers(cri: Cri) -> list[Container]:
    found = []
    for record in cri.k8s.containers.list([f'labels."{labels.KIND}"=={labels.KIND_CONTAINER}']):
        container = _container(cri, record)
        if container is not None:
            found.append(container)
    return found


def _container(cri: Cri, record: containers.Container) -> Container | None:
    try:
        container = decode_container(record)
    except DataLoss as error:
        logger.error("%s", error)
        return None
    container.run = journal.load(cri.container_folder(record.id)) or Run()
    return container


async def _restore_runs(cri: Cri) -> None:
    """Compare what was written of each run with the task that there is, or is not."""
    tasks = {process.container_id: process for process in cri.k8s.tasks.list()}
    for container in cri.containers:
        run, process = container.run, tasks.get(container.id)
        if run.finished_at:
            container.stopped.set()
        elif process is None:
            if run.started_at:
                stopping.lost(container)
                await cri.run(journal.save, cri.container_folder(container.id), run, sync=True)
        elif process.status is Status.CREATED:
            # The daemon went between making the task and starting it: the container can still be started.
            cri.background.start(f"half-started container {container.id}", discard_task(cri, container.id))
        else:
            # The daemon may have gone before it could write down the start; the end, if there is one, is told by
            # whoever follows the events.
            run.pid, run.started_at = process.pid, run.started_at or container.created_at


async def sweep(cri: Cri, left: Leftovers) -> None:
    """Take down what is left. One failure keeps none of the others."""
    for id in left.networks:
        teardown.end_network_later(cri, id)
    for id in left.pods:
        logger.info("pod %s was never finished: it is taken down", id)
        try:
            await teardown.end_shim(cri, id)
            await cri.run(forget, cri, id)
            await cri.run(files.remove, cri.sandbox_folder(id))
        except MoorageError as error:
            logger.warning("pod %s, which was never finished, could not be taken down: %s", id, error)
    for id in left.namespaces:
        await teardown.end_namespace(cri, id)
    await cri.run(_remove_containers, cri, left.containers)
    await sweep_commands(cri, left.commands)


def _remove_containers(cri: Cri, ids: Sequence[str]) -> None:
    """Folders and snapshots of containers that have no record: making or removing them was cut short."""
    snapshotters = {cri.snapshotter_of(handler) for handler in cri.config.runtimes.values()}
    for id in ids:
        for key in (*image_volumes.unmount(cri, id), id):
            for name in snapshotters:
                with suppress(NotFound):
                    cri.k8s.snapshotter(name).remove(key)
        files.remove(cri.container_folder(id))
