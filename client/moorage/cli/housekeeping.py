"""`image prune`, `container prune`, `system prune`: what is not used goes."""

from __future__ import annotations

from collections.abc import Mapping

import click

from moorage.cli.app import App, connected
from moorage.cli.each import confirmed
from moorage.cli.filters import Pruned, prune_filter, pruned
from moorage.cli.images import removed
from moorage.container import ContainerHandle
from moorage.dangling import is_dangling
from moorage.image_config import resolve
from moorage.state import State, state_of
from moorage_api.containers import Container
from moorage_api.errors import MoorageError
from moorage_api.images import Image


@click.command("prune")
@prune_filter
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def container_prune(app: App, force: bool, texts: tuple[str, ...]) -> None:
    """Remove all containers that do not run."""
    fits = pruned(texts)
    if confirmed("This will remove all containers that do not run. Go on?", force=force):
        await _prune_containers(app, fits)


@click.command("prune")
@click.option("-a", "--all", is_flag=True, help="All that no container uses, not only those without a name.")
@prune_filter
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def image_prune(app: App, all: bool, force: bool, texts: tuple[str, ...]) -> None:
    """Remove images that nobody uses, and collect what they leave."""
    fits = pruned(texts)
    which = "all images" if all else "all images without a name"
    if confirmed(f"This will remove {which} that no container uses. Go on?", force=force):
        await _prune_images(app, fits, all=all)


@click.command("prune")
@click.option("-a", "--all", is_flag=True, help="Also images that no container uses.")
@click.option("--volumes", is_flag=True, help="Also volumes without a name that no container uses.")
@prune_filter
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def system_prune(app: App, all: bool, volumes: bool, force: bool, texts: tuple[str, ...]) -> None:
    """Remove what is not used: containers that do not run, networks, images without a name, and more if asked."""
    fits = pruned(texts)
    images = "images" if all else "images without a name"
    what = ["containers that do not run", "networks", *(["volumes without a name"] if volumes else []), images]
    if not confirmed(f"This will remove all unused {', '.join(what)}. Go on?", force=force):
        return
    from moorage.cli.networks import prune_networks
    from moorage.cli.volumes import prune_volumes

    await _prune_containers(app, fits)
    await prune_networks(app, fits)
    if volumes:
        await prune_volumes(app, fits)
    await _prune_images(app, fits, all=all)


async def _states(app: App) -> list[tuple[Container, State]]:
    tasks = {process.container_id: process for process in await app.client.tasks.list()}
    return [(record, state_of(record, tasks.get(record.id))) for record in await app.client.containers.list()]


async def _prune_containers(app: App, fits: Pruned) -> None:
    for record, state in await _states(app):
        if not state.running and fits(record.created_at, record.labels):
            try:
                await ContainerHandle(app.client, record).remove()
                print(record.id)
            except MoorageError as error:
                app.tell(error)


async def _prune_images(app: App, fits: Pruned, *, all: bool) -> None:
    """Without `all`, images that have a name stay."""
    users = {record.image for record in await app.client.containers.list()}
    for image in await app.client.images.list():
        if image.name not in users and (all or is_dangling(image)) and fits(*await _age(app, image)):
            await app.client.images.delete(image.name)
            print(removed(image))
    await app.client.collect()


async def _age(app: App, image: Image) -> tuple[int, Mapping[str, str]]:
    """When an image came here, and the labels that its maker gave it; none where its content is not all here."""
    try:
        found = await resolve(app.client.content, image)
    except MoorageError:
        return image.created_at, {}
    return image.created_at, found.config.config.labels
