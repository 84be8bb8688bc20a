"""`image prune`, `container prune`, `system prune`, `system df`: what takes space, and what may go."""

from __future__ import annotations

from typing import Any

import click

from moorage.cli.app import App, connected
from moorage.cli.each import confirmed
from moorage.cli.output import print_rows
from moorage.cli.units import human_size
from moorage.container import ContainerHandle, State, state_of
from moorage.image_config import resolve
from moorage_api.containers import Container
from moorage_api.errors import MoorageError
from moorage_api.images import Image

_COLUMNS = {"TYPE": "Type", "TOTAL": "TotalCount", "ACTIVE": "Active", "SIZE": "Size", "RECLAIMABLE": "Reclaimable"}


@click.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def container_prune(app: App, force: bool) -> None:
    """Remove all containers that do not run."""
    if confirmed("This will remove all containers that do not run. Go on?", force=force):
        await _prune_containers(app)


@click.command("prune")
@click.option(
    "-a", "--all", is_flag=True, help="All that no container uses, not only those without a name of their own."
)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def image_prune(app: App, all: bool, force: bool) -> None:
    """Remove images that nobody uses, and collect what they leave."""
    which = "all images that no container uses" if all else "what images that are gone have left"
    if confirmed(f"This will remove {which}. Go on?", force=force):
        await _prune_images(app, all=all)


@click.command("prune")
@click.option("-a", "--all", is_flag=True, help="Also images that no container uses.")
@click.option("--volumes", is_flag=True, help="Also volumes that no container uses.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def system_prune(app: App, all: bool, volumes: bool, force: bool) -> None:
    """Remove what is not used: containers that do not run, networks, and more if asked."""
    what = ["containers that do not run", "networks", *(["volumes"] if volumes else []), *(["images"] if all else [])]
    if not confirmed(f"This will remove all unused {', '.join(what)}. Go on?", force=force):
        return
    from moorage.cli.networks import prune_networks
    from moorage.cli.volumes import prune_volumes

    await _prune_containers(app)
    await prune_networks(app)
    if volumes:
        await prune_volumes(app)
    await _prune_images(app, all=all)


@click.command("df")
@click.option("--format", default="", metavar="FORMAT", help="table, json, or a Go template.")
@connected()
async def df(app: App) -> None:
    """Show what images, containers and volumes take."""
    records = await _states(app)
    users = {record.image for record, _ in records}
    images = await app.client.images.list()
    rows = [
        _row("Images", images, {image.name for image in images} & users, *await _image_sizes(app, images, users)),
        await _containers_row(app, records),
        await _volumes_row(app),
    ]
    print_rows(rows, _COLUMNS, app.format)


async def _states(app: App) -> list[tuple[Container, State]]:
    tasks = {process.container_id: process for process in await app.client.tasks.list()}
    return [(record, state_of(record, tasks.get(record.id))) for record in await app.client.containers.list()]


async def _prune_containers(app: App) -> None:
    for record, state in await _states(app):
        if not state.running:
            try:
                await ContainerHandle(app.client, record).remove()
                print(record.id)
            except MoorageError as error:
                app.tell(error)


async def _prune_images(app: App, *, all: bool) -> None:
    """Without `all`, every image has a name and stays: what is left to collect has none."""
    users = {record.image for record in await app.client.containers.list()}
    for image in await app.client.images.list() if all else ():
        if image.name not in users:
            await app.client.images.delete(image.name)
            print(f"Untagged: {image.name}")
    await app.client.collect()


async def _image_sizes(app: App, images: list[Image], users: set[str]) -> tuple[int, int]:
    """Bytes of all, each blob counted once, and of those that no container uses."""
    blobs: dict[str, int] = {}
    used: set[str] = set()
    for image in images:
        try:
            found = await resolve(app.client.content, image)
        except MoorageError:
            # Only a part of it is here, or it is for another machine: nothing to count.
            continue
        parts = {blob.digest: blob.size for blob in (found.manifest, found.config_descriptor, *found.layers)}
        blobs |= parts
        used |= set(parts) if image.name in users else set()
    return sum(blobs.values()), sum(size for digest, size in blobs.items() if digest not in used)


async def _containers_row(app: App, records: list[tuple[Container, State]]) -> dict[str, str]:
    sizes: dict[str, int] = {}
    for record, _ in records:
        try:
            sizes[record.id] = (await app.client.snapshots(record.snapshotter).usage(record.snapshot_key)).size
        except MoorageError:
            # Another client's container without a snapshot.
            continue
    running = {record.id for record, state in records if state.running}
    free = sum(size for id, size in sizes.items() if id not in running)
    return _row("Containers", records, running, sum(sizes.values()), free)


async def _volumes_row(app: App) -> dict[str, str]:
    from moorage.cli.volumes import volume_users
    from moorage.volumes import Volumes
    from moorage_api.linux.tree import disk_usage

    root = (await app.client.defaults()).volumes
    volumes = Volumes(root, app.client.namespace).list() if root else []
    sizes = {volume.name: disk_usage(volume.path)[0] for volume in volumes}
    active = {name for name in sizes if await volume_users(app, name)}
    free = sum(size for name, size in sizes.items() if name not in active)
    return _row("Local Volumes", volumes, active, sum(sizes.values()), free)


def _row(kind: str, all: list[Any], active: set[str], size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(len(all)),
        "Active": str(len(active)),
        "Size": human_size(size),
        "Reclaimable": f"{human_size(free)}{share}",
    }
