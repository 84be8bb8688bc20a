"""`image prune`, `container prune`, `system prune`: what is not used goes."""

from __future__ import annotations

import click

from moorage.cli.app import App, connected
from moorage.cli.each import confirmed
from moorage.container import ContainerHandle
from moorage.state import State, state_of
from moorage_api.containers import Container
from moorage_api.errors import MoorageError


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
