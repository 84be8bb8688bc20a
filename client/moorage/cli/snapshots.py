"""`snapshot`: the file systems of images and containers, layer by layer."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from moorage.cli.app import App, connected, formatted
from moorage.cli.each import describe_each, for_each
from moorage.cli.output import shorten
from moorage.cli.pairs import joined
from moorage.cli.units import human_size, rfc3339
from moorage.snapshots import Snapshots
from moorage_api.snapshots import Info

_COLUMNS = {"KEY": "Key", "PARENT": "Parent", "KIND": "Kind"}
_SHOWN = 24

_SNAPSHOTTER = click.option("--snapshotter", default="", metavar="ID", help="Of this snapshotter [the daemon's first].")


@click.group()
def snapshot() -> None:
    """Snapshots: the file systems of images and containers, layer by layer."""


async def _snapshots(app: App, snapshotter: str) -> Snapshots:
    return app.client.snapshots(snapshotter or (await app.client.defaults()).snapshotter)


@snapshot.command("ls")
@_SNAPSHOTTER
@click.option("-f", "--filter", "filters", multiple=True, help="A filter of containerd's, as kind==active.")
@click.option("-s", "--size", is_flag=True, help="Show what each holds itself.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten keys.")
@formatted
@connected()
async def list_snapshots(app: App, snapshotter: str, filters: tuple[str, ...], size: bool, no_trunc: bool) -> None:
    """List snapshots."""
    snapshots = await _snapshots(app, snapshotter)
    rows = [_row(info, no_trunc=no_trunc or app.quiet) for info in await snapshots.list(*filters)]
    columns = dict(_COLUMNS)
    if size:
        columns["SIZE"] = "Size"
        usages = await asyncio.gather(*(snapshots.usage(row["Name"]) for row in rows))
        rows = [row | {"Size": human_size(usage.size)} for row, usage in zip(rows, usages, strict=True)]
    app.show(rows, columns, "Key")


def _row(info: Info, *, no_trunc: bool) -> dict[str, Any]:
    key, parent = (name if no_trunc else shorten(name, _SHOWN) for name in (info.name, info.parent))
    return {
        "Key": key,
        "Parent": parent,
        "Kind": info.kind.name.lower(),
        "Name": info.name,
        "Labels": joined(info.labels),
    }


@snapshot.command("inspect")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_SNAPSHOTTER
@click.option("-f", "--format", default="", metavar="FORMAT", help="json, or a Go template.")
@connected()
async def inspect(app: App, keys: tuple[str, ...], snapshotter: str) -> int:
    """Show all that is known of snapshots, and what they hold themselves."""
    snapshots = await _snapshots(app, snapshotter)

    async def one(key: str) -> dict[str, Any]:
        info, usage = await asyncio.gather(snapshots.stat(key), snapshots.usage(key))
        return {
            "Key": info.name,
            "Parent": info.parent,
            "Kind": info.kind.name.lower(),
            "Snapshotter": snapshots.snapshotter,
            "Created": rfc3339(info.created_at),
            "Updated": rfc3339(info.updated_at),
            "Labels": dict(info.labels),
            "Size": usage.size,
            "Inodes": usage.inodes,
        }

    return await describe_each(app, keys, one)


@snapshot.command("mounts")
@click.argument("key")
@click.argument("target", default="DIR")
@_SNAPSHOTTER
@connected()
async def mounts(app: App, key: str, target: str, snapshotter: str) -> None:
    """Print the commands that mount an active snapshot, or a view, at TARGET."""
    for mount in await (await _snapshots(app, snapshotter)).mounts(key):
        options = f" -o {','.join(mount.options)}" if mount.options else ""
        print(f"mount -t {mount.type} {mount.source} {target}{options}")


@snapshot.command("rm")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_SNAPSHOTTER
@click.option("-f", "--force", is_flag=True, help="No error where one is not there.")
@connected()
async def remove(app: App, keys: tuple[str, ...], snapshotter: str, force: bool) -> int:
    """Remove snapshots that nothing stands on."""
    snapshots = await _snapshots(app, snapshotter)
    return await for_each(app, keys, snapshots.remove, missing_ok=force)
