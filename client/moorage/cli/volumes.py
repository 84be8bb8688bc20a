"""`volume`: named volumes."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import confirmed, describe_each, for_each
from moorage.cli.filters import Pruned, filters, named_and_labelled, prune_filter, pruned
from moorage.cli.pairs import joined, pairs
from moorage.options import options_of
from moorage.times import parse_time
from moorage.volumes import ANONYMOUS, NamedVolume, Volumes
from moorage_api.errors import AlreadyExists, FailedPrecondition

_COLUMNS = {"DRIVER": "Driver", "VOLUME NAME": "Name"}


@click.group()
def volume() -> None:
    """Volumes: files that outlive the containers that mount them."""


async def _volumes(app: App) -> Volumes:
    return Volumes((await app.client.defaults()).volumes, app.client.namespace)


@volume.command("ls")
@click.option("-f", "--filter", "texts", multiple=True, metavar="KEY=VALUE", help="name, label, dangling.")
@formatted
@connected()
async def list_volumes(app: App, texts: tuple[str, ...]) -> None:
    """List volumes."""
    wanted = filters(texts, ("name", "label", "dangling"))
    unused = wanted.pop("dangling", [])
    rows = []
    for found in (await _volumes(app)).list():
        if unused and str(not await volume_users(app, found.name)).lower() not in unused:
            continue
        if named_and_labelled(found.name, found.labels, wanted):
            rows.append({**_shown(found), "Labels": joined(found.labels)})
    app.show(rows, _COLUMNS, "Name")


@volume.command("create")
@click.argument("name", default="")
@click.option("-d", "--driver", type=click.Choice(["local"]), default="local", hidden=True)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Add a label.")
@connected()
async def create(app: App, name: str, driver: str, labels: tuple[str, ...]) -> None:
    """Make an empty volume; one that is there already is no error."""
    volumes = await _volumes(app)
    anonymous = {} if name else {ANONYMOUS: ""}
    name = name or secrets.token_hex(32)
    try:
        volumes.create(name, {**anonymous, **pairs(labels)})
    except AlreadyExists:
        volumes.get(name)
    print(name)


@volume.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("-f", "--force", is_flag=True, help="No error where one is not there.")
@connected()
async def remove(app: App, names: tuple[str, ...], force: bool) -> int:
    """Remove volumes that no container uses, with all that is in them."""
    volumes = await _volumes(app)

    async def one(name: str) -> None:
        volumes.get(name)
        users = await volume_users(app, name)
        if users:
            raise FailedPrecondition(f"volume {name} is used by {', '.join(users)}: remove the containers first")
        await asyncio.to_thread(volumes.remove, name)

    return await for_each(app, names, one, missing_ok=force)


@volume.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, names: tuple[str, ...]) -> int:
    """Show all that is known of volumes."""
    volumes = await _volumes(app)

    async def one(name: str) -> dict[str, Any]:
        return _shown(volumes.get(name))

    return await describe_each(app, names, one)


@volume.command("prune")
@click.option("-a", "--all", is_flag=True, help="Also those that have a name.")
@prune_filter
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connected()
async def prune(app: App, all: bool, force: bool, texts: tuple[str, ...]) -> None:
    """Remove volumes without a name that no container uses."""
    fits = pruned(texts)
    which = "volumes" if all else "volumes without a name"
    if confirmed(f"This will remove all {which} that no container uses. Go on?", force=force):
        await prune_volumes(app, fits, all=all)


async def prune_volumes(app: App, fits: Pruned, *, all: bool = False) -> None:
    """Remove what no container uses, and print the names."""
    volumes = await _volumes(app)
    for found in volumes.list():
        wanted = (all or ANONYMOUS in found.labels) and fits(parse_time(found.created), found.labels)
        if wanted and not await volume_users(app, found.name):
            await asyncio.to_thread(volumes.remove, found.name)
            print(found.name)


async def volume_users(app: App, name: str) -> list[str]:
    """The short ids of the containers that mount a volume."""
    return [
        record.id[:12]
        for record in await app.client.containers.list()
        if (options := options_of(record)) and any(mounted.name == name for mounted in options.volumes)
    ]


def _shown(found: NamedVolume) -> dict[str, Any]:
    return {
        "CreatedAt": found.created,
        "Driver": "local",
        "Labels": dict(found.labels),
        "Mountpoint": found.path,
        "Name": found.name,
        "Options": None,
        "Scope": "local",
    }
